// SPDX-License-Identifier: MIT
// How a kernel becomes a function of Python: of the members of its arguments, in their order, and of a place.
#pragma once

#include "bind/members.h"
#include "bind/tracks.h"
#include "chosen.h"

namespace geodesic_fast {

// What Python gives for a member of a type, and what becomes of it.
template <class Member>
struct From {
  using Given = Member;
  static Member take(Member given) { return given; }
};
template <class T>
struct From<T*> {
  using Given = uintptr_t;
  static T* take(uintptr_t address) { return pointer<T>(address); }
};
template <>
struct From<ZeroStep> {
  using Given = int;
  static ZeroStep take(int given) { return static_cast<ZeroStep>(given); }
};
template <>
struct From<TracksView> {
  using Given = Tracks&;
  static TracksView take(Tracks& given) { return given.view(); }
};
template <>
struct From<TrackPairs> {
  using Given = Pairs&;
  static TrackPairs take(Pairs& given) { return given.view(); }
};
template <>
struct From<ProductTile> {
  using Given = const ProductTile&;
  static const ProductTile& take(const ProductTile& given) { return given; }
};
template <>
struct From<DenseProblems> {
  using Given = const DenseProblems&;
  static const DenseProblems& take(const DenseProblems& given) { return given; }
};

// What protects memory beyond the layout of tracks; most arguments need no more.
template <class Args>
void check(const Args&) {}
inline void check(const TrackDistance& args) {
  if (args.row_begin < 0 || args.row_begin > args.row_end || args.row_end > args.pairs.tracks.tracks) {
    throw std::invalid_argument("rows out of range");
  }
}
inline void check(const NearestTrack& args) {
  const int64_t m = args.pairs.tracks.tracks;
  if (args.row_begin < 0 || args.row_begin > args.row_end || args.row_end > m || args.column_begin < 0 ||
      args.column_begin > args.column_end || args.column_end > m || !args.pairs.symmetric) {
    throw std::invalid_argument("part out of range");
  }
}
inline void check(const ListArgs& args) {
  if (args.keep < 0 || args.keep > kRowParts || args.limit < 0) {
    throw std::invalid_argument("keep or limit out of range");
  }
}

// What a kernel needs to work in is named `workspace`, and `workspace_bytes` says how much that is.
template <class Args, class = void>
constexpr bool kNeedsWorkspace = false;
template <class Args>
constexpr bool kNeedsWorkspace<Args, std::void_t<decltype(Args::workspace)>> = true;

// Arguments that Python makes an object of, for more than one call.
template <class Args>
constexpr bool kIsObject = std::is_same_v<Args, TrackPairs> || std::is_same_v<Args, DenseProblems>;

template <class Result, class Args>
Result launch(Result (*Kernels::*kernel)(const Args&, const Place&), const Args& args, const Place& place) {
  check(args);
  const auto chosen = kernels_at(place).*kernel;
  if (chosen == nullptr) throw std::invalid_argument("this kernel is on the CPU alone");
  const pybind11::gil_scoped_release release;
  return chosen(args, place);
}

// The functions of one kernel, and of the bytes that it needs to work in on a GPU: on the CPU none does.
template <class Result, class Args, class... Members>
void bind_kernel(const char* name, Result (*Kernels::*kernel)(const Args&, const Place&),
                 std::tuple<Members&...>*, pybind11::dict& kernels, pybind11::dict& workspaces) {
  if constexpr (kIsObject<Args>) {
    kernels[name] = pybind11::cpp_function([kernel](typename From<Args>::Given given, const Place& place) {
      return launch(kernel, From<Args>::take(given), place);
    });
  } else {
    kernels[name] =
        pybind11::cpp_function([kernel](typename From<Members>::Given... given, const Place& place) {
          return launch(kernel, Args{From<Members>::take(given)...}, place);
        });
  }
  if constexpr (kNeedsWorkspace<Args>) {
    workspaces[name] =
        pybind11::cpp_function([](typename From<Members>::Given... given, const Place& place) -> int64_t {
          return place.device < 0 ? 0 : workspace_bytes(Args{From<Members>::take(given)...}, place.device);
        });
  }
}

template <class Result, class Args>
void bind_kernel(const char* name, Result (*Kernels::*kernel)(const Args&, const Place&),
                 pybind11::dict& kernels, pybind11::dict& workspaces) {
  bind_kernel(name, kernel, static_cast<MembersOf<Args>*>(nullptr), kernels, workspaces);
}

void bind_ots(pybind11::module_& m);

}  // namespace geodesic_fast
