// What is done in every step between worlds and agents: keys of random streams, and records of entries.
#include <cstring>

#include "rng.hpp"

extern "C" {

// out[b] = the key of row b folded with its word: marl.rng.Stream.fold, bit for bit.
void marl_fold(int64_t B, const int64_t* key, const int64_t* word, int64_t* out) {
  for (int64_t b = 0; b < B; ++b)
    out[b] = static_cast<int64_t>(marl::fold(static_cast<uint64_t>(key[b]), static_cast<uint64_t>(word[b])));
}

// Completes the newest record of every env and puts it on the tape: marl.tape.Tape, byte for byte.
//
// fields (F, 3): first byte in a record, values per env, and what they are: 1 to 8 are bytes of a value that is copied,
// -1, -2, -4 those of an integer that an int64 is narrowed to. from (F): the values, env after env.
// Bits: `avail` (B, many) and `alive` (B, few; may be null: those of before stay) go into `unpacked` (B, 8 bytes), which
// is packed into `packed` bytes from byte `at_bits` on, first bit lowest.
void marl_record(int64_t B, int64_t R, int64_t F, const int64_t* fields, const void* const* from, int64_t at_bits,
                 int64_t packed, int64_t many, int64_t few, const uint8_t* avail, const uint8_t* alive,
                 uint8_t* unpacked, uint8_t* record, const int64_t* base, const int64_t* at, uint8_t* tape) {
  for (int64_t b = 0; b < B; ++b, record += R, unpacked += 8 * packed) {
    for (int64_t f = 0; f < F; ++f) {
      const int64_t *field = fields + 3 * f, count = field[1], kind = field[2];
      uint8_t* to = record + field[0];
      if (kind > 0) {
        std::memcpy(to, static_cast<const uint8_t*>(from[f]) + b * count * kind, count * kind);
        continue;
      }
      const int64_t* wide = static_cast<const int64_t*>(from[f]) + b * count;
      for (int64_t i = 0; i < count; ++i) std::memcpy(to - i * kind, wide + i, -kind);  // little-endian: the low bytes
    }
    std::memcpy(unpacked, avail + b * many, many);
    if (alive) std::memcpy(unpacked + many, alive + b * few, few);
    for (int64_t i = 0; i < packed; ++i) {
      uint8_t bits = 0;
      for (int k = 0; k < 8; ++k) bits |= static_cast<uint8_t>(unpacked[8 * i + k] << k);
      record[at_bits + i] = bits;
    }
    std::memcpy(tape + (base[b] + at[b]) * R, record, R);
  }
}

}  // extern "C"
