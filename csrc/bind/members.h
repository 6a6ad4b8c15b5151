// SPDX-License-Identifier: MIT
// The members of a struct, found by the compiler: how many, and of which types, in their order.
#pragma once

#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>

namespace geodesic_fast {

constexpr size_t kMostMembers = 16;

// Stands for a value of whatever type a member has.
struct Anything {
  explicit constexpr Anything(size_t) {}
  template <class T>
  operator T() const;
};

template <class Struct, class Count, class = void>
struct Takes : std::false_type {};
template <class Struct, size_t... i>
struct Takes<Struct, std::index_sequence<i...>, std::void_t<decltype(Struct{Anything(i)...})>>
    : std::true_type {};

// As many as it can be made of.
template <class Struct, size_t most = kMostMembers + 1>
constexpr size_t count_members() {
  if constexpr (Takes<Struct, std::make_index_sequence<most>>::value) {
    return most;
  } else {
    return count_members<Struct, most - 1>();
  }
}

#define GEODESIC_FAST_TIE(count, ...)                             \
  if constexpr (count_members<Struct>() == count) {               \
    auto& [__VA_ARGS__] = given;                                  \
    static_assert(std::is_aggregate_v<Struct>, "a plain struct"); \
    return std::tie(__VA_ARGS__);                                 \
  }
template <class Struct>
auto members_of(Struct& given) {
  static_assert(count_members<Struct>() <= kMostMembers, "a longer list below");
  GEODESIC_FAST_TIE(1, a)
  GEODESIC_FAST_TIE(2, a, b)
  GEODESIC_FAST_TIE(3, a, b, c)
  GEODESIC_FAST_TIE(4, a, b, c, d)
  GEODESIC_FAST_TIE(5, a, b, c, d, e)
  GEODESIC_FAST_TIE(6, a, b, c, d, e, f)
  GEODESIC_FAST_TIE(7, a, b, c, d, e, f, g)
  GEODESIC_FAST_TIE(8, a, b, c, d, e, f, g, h)
  GEODESIC_FAST_TIE(9, a, b, c, d, e, f, g, h, i)
  GEODESIC_FAST_TIE(10, a, b, c, d, e, f, g, h, i, j)
  GEODESIC_FAST_TIE(11, a, b, c, d, e, f, g, h, i, j, k)
  GEODESIC_FAST_TIE(12, a, b, c, d, e, f, g, h, i, j, k, l)
  GEODESIC_FAST_TIE(13, a, b, c, d, e, f, g, h, i, j, k, l, m)
  GEODESIC_FAST_TIE(14, a, b, c, d, e, f, g, h, i, j, k, l, m, n)
  GEODESIC_FAST_TIE(15, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o)
  GEODESIC_FAST_TIE(16, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
}
#undef GEODESIC_FAST_TIE

// std::tuple<Members&...>
template <class Struct>
using MembersOf = decltype(members_of(std::declval<Struct&>()));

}  // namespace geodesic_fast
