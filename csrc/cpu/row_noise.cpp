#include "../ops/row_noise.h"
#include "../math/circular.h"

#include "noise.h"

namespace bfn {
namespace {

// Philox groups of several rows, which are evaluated together.
struct Groups {
  int64_t count = 0, place[kLanes];  // the number of groups, and where the first word of each one lies in its row
  int64_t row[kLanes];
  uint64_t seed[kLanes] = {}, group[kLanes] = {};
  uint32_t draw[kLanes] = {};
};

// Calls make(words, numbers), which makes four numbers of the words of each group, and writes those that lie in a row.
template <class T, class F>
void write(const RowNoise& op, Groups& groups, F&& make) {
  uint32_t words[4][kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    const Words w = philox(groups.seed[i], groups.group[i], op.stream, groups.draw[i]);
    words[0][i] = w.w0;
    words[1][i] = w.w1;
    words[2][i] = w.w2;
    words[3][i] = w.w3;
  }
  T numbers[4][kLanes], of_group[kLanes][4];
  make(words, numbers);
  for (int64_t i = 0; i < kLanes; ++i) {
    for (int64_t j = 0; j < 4; ++j) of_group[i][j] = numbers[j][i];
  }
  for (int64_t i = 0; i < groups.count; ++i) {
    const int64_t place = groups.place[i];
    T* const row = static_cast<T*>(op.out) + groups.row[i] * op.width;
    if (place >= 0 && place + 4 <= op.width) {
      std::copy_n(of_group[i], 4, row + place);
    } else {
      for (int64_t k = std::max<int64_t>(place, 0); k < std::min(place + 4, op.width); ++k) {
        row[k] = of_group[i][k - place];
      }
    }
  }
  groups.count = 0;
}

template <class T, class F>
void for_rows_of_noise(const RowNoise& op, F&& make) {
  for_blocks(op.draws * op.rows, std::max<int64_t>(op.width, 1), [&](int64_t start, int64_t length) {
    Groups groups;
    for (int64_t row = start; row < start + length; ++row) {
      const int64_t first = op.first[row % op.rows], skip = first % 4;
      for (int64_t place = -skip; place < op.width; place += 4) {
        groups.row[groups.count] = row;
        groups.place[groups.count] = place;
        groups.seed[groups.count] = static_cast<uint64_t>(op.seed[row % op.rows]);
        groups.group[groups.count] = static_cast<uint64_t>((first + place) / 4);
        groups.draw[groups.count] = static_cast<uint32_t>(row / op.rows);
        if (++groups.count == kLanes) write<T>(op, groups, make);
      }
    }
    write<T>(op, groups, make);
  });
}

}  // namespace

template <class T>
void row_normals(const RowNoise& op) {
  if (op.width >= 4 * kLanes) {  // the lanes are groups of one row
    return for_blocks(op.draws * op.rows, op.width, [&](int64_t start, int64_t length) {
      for (int64_t row = start; row < start + length; ++row) {
        const Noise noise{.seed = op.seed + row % op.rows, .stream = op.stream};
        for (int64_t done = 0; done < op.width; done += kBlock) {
          T buffer[noise_buffer_size(kBlock)];
          const int64_t part = std::min(kBlock, op.width - done), first = op.first[row % op.rows] + done;
          const T* normals = normals_of(noise, first, part, buffer, static_cast<uint32_t>(row / op.rows));
          std::copy_n(normals, part, static_cast<T*>(op.out) + row * op.width + done);
        }
      }
    });
  }
  for_rows_of_noise<T>(op, [](const uint32_t (&words)[4][kLanes], T(&normals)[4][kLanes]) {
    for (int64_t i = 0; i < kLanes; ++i) box_muller(words[0][i], words[1][i], normals[0][i], normals[1][i]);
    for (int64_t i = 0; i < kLanes; ++i) box_muller(words[2][i], words[3][i], normals[2][i], normals[3][i]);
  });
}

void row_words(const RowNoise& op) {
  for_rows_of_noise<int64_t>(op, [](const uint32_t (&words)[4][kLanes], int64_t (&numbers)[4][kLanes]) {
    for (int64_t j = 0; j < 4; ++j) std::copy_n(words[j], kLanes, numbers[j]);
  });
}

void row_angles(const RowNoise& op) {
  const int64_t count = op.rows * op.width;
  for_blocks(count, 2 * op.draws, [&](int64_t start, int64_t length) {
    for (int64_t done = start; done < start + length; done += kLanes) {
      const int64_t lanes = std::min(kLanes, start + length - done);
      uint64_t seed[kLanes] = {}, index[kLanes] = {};
      uint32_t word[kLanes], rest[kLanes];
      for (int64_t i = 0; i < lanes; ++i) {
        const int64_t row = (done + i) / op.width;
        seed[i] = static_cast<uint64_t>(op.seed[row]);
        index[i] = static_cast<uint64_t>(op.first[row] + (done + i) % op.width);
      }
      for (int64_t i = 0; i < kLanes; ++i) word[i] = word_of_row(seed[i], static_cast<int64_t>(index[i]), op.stream);
      for (int64_t draw = 0; draw < op.draws; ++draw) {
        float* const signed_unit = static_cast<float*>(op.out) + 2 * draw * count + done;
        for (int64_t i = 0; i < lanes; ++i) signed_unit[i] = signed_unit_of(word[i]);
        float accepting[kLanes];
        for (int64_t i = 0; i < kLanes; ++i) {
          const Words w = philox(seed[i], index[i], op.stream, static_cast<uint32_t>(draw + 1));
          accepting[i] = (static_cast<float>(static_cast<int32_t>(word[i] & 255)) + unit(w.w0)) * 0x1p-8f;
          rest[i] = w.w1;
        }
        std::copy_n(accepting, lanes, signed_unit + count);
        std::copy_n(rest, kLanes, word);
      }
    }
  });
}

BFN_INSTANTIATE(row_normals, const RowNoise&);

}  // namespace bfn
