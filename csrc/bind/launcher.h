// SPDX-License-Identifier: MIT
// How a kernel becomes a function of Python: of the members of its arguments, in the order in which they are
// named, and of a place. A new argument is its member and its name there.
#pragma once

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
  static ProductTile take(const ProductTile& given) { return given; }
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

template <class Args, class... Members>
auto launcher(void (*Kernels::*kernel)(const Args&, const Place&), Members Args::*... members) {
  return [kernel, members...](typename From<Members>::Given... given, const Place& place) {
    Args args{};
    ((args.*members = From<Members>::take(given)), ...);
    check(args);
    const pybind11::gil_scoped_release release;
    (kernels_at(place).*kernel)(args, place);
  };
}

// Of a kernel that is on the CPU alone.
template <class Args, class... Members>
auto cpu_launcher(void (*Kernels::*kernel)(const Args&, const Place&), Members Args::*... members) {
  const auto launch = launcher(kernel, members...);
  return [launch](typename From<Members>::Given... given, int threads) { launch(given..., Place{threads}); };
}

// The bytes that a kernel needs to work in: none on the CPU.
inline auto workspace(int64_t (*bytes)(const TracksView&)) {
  return [bytes](Tracks& tracks, const Place& place) { return place.device < 0 ? 0 : bytes(tracks.view()); };
}

void bind_ots(pybind11::module_& m);

}  // namespace geodesic_fast
