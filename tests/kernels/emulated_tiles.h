// AMX's tiles in plain C++, for processors without: eight of 16 rows of 64 bytes a thread. To be
// included before bfloat16.cpp, built with -mamx-tile -mamx-bf16.
#pragma once

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

struct Tile {
  char rows[16][64];
};

inline Tile &TileOf(int number) {
  thread_local Tile tiles[8];
  return tiles[number];
}

inline void LoadTile(int number, const void *from, int64_t stride) {
  for (int r = 0; r < 16; ++r)
    std::memcpy(TileOf(number).rows[r], static_cast<const char *>(from) + r * stride, 64);
}

inline void StoreTile(int number, void *to, int64_t stride) {
  for (int r = 0; r < 16; ++r)
    std::memcpy(static_cast<char *>(to) + r * stride, TileOf(number).rows[r], 64);
}

inline float HalfAt(const Tile &tile, int row, int place) {
  uint32_t bits = 0;
  std::memcpy(reinterpret_cast<char *>(&bits) + 2, tile.rows[row] + 2 * place, 2);
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// to += left right, where a row of right has 16 pairs of halves
inline void MultiplyTiles(int to, int left, int right) {
  for (int m = 0; m < 16; ++m) {
    float sums[16];
    std::memcpy(sums, TileOf(to).rows[m], sizeof(sums));
    for (int k = 0; k < 32; ++k)
      for (int n = 0; n < 16; ++n)
        sums[n] += HalfAt(TileOf(left), m, k) * HalfAt(TileOf(right), k / 2, 2 * n + k % 2);
    std::memcpy(TileOf(to).rows[m], sums, sizeof(sums));
  }
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#undef _tile_loadconfig
#undef _tile_release
#define _tile_loadd(number, from, stride) LoadTile(number, from, stride)
#define _tile_stored(number, to, stride) StoreTile(number, to, stride)
#define _tile_zero(number) TileOf(number) = {}
#define _tile_dpbf16ps(to, left, right) MultiplyTiles(to, left, right)
#define _tile_loadconfig(shapes) static_cast<void>(shapes)
#define _tile_release() static_cast<void>(0)
#define syscall(...) 0  // of Linux, which lends the real ones
