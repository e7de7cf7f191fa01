// Crops of decoded images, uint8 RGB, three bytes a pixel: scaled, cut and mirrored.
//
// The pixels are those of torch's antialiased bilinear scaling of bytes, which are Pillow's, of the whole image: a pixel is a
// weighted sum of those that a triangle reaches, first along each row, rounded to a byte, then along each column. Weights are whole
// numbers of 2^-precision. Only the crop is computed. For the way along the rows, 64 of them are transposed, so that what has the
// same weight lies side by side, and transposed back.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int COLOURS = 3;
constexpr int LANES = 16;  // bytes that are moved at once
constexpr int ROWS = 64;

// The same fields in the same order as in cutting.py.
struct Place {
    int64_t top, left, region_width;  // where in the image the region begins that was decoded, and its width
    int64_t height, width;            // of the whole image
    int64_t scaled_height, scaled_width;
    int64_t y, x;  // where the crop begins in the scaled image
    int64_t mirror;
};

typedef uint8_t Bytes __attribute__((vector_size(LANES)));

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Bytes{__VA_ARGS__})
#endif

inline Bytes load(const uint8_t* from) {
    Bytes bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    return bytes;
}

inline void store(Bytes bytes, uint8_t* to) { std::memcpy(to, &bytes, sizeof bytes); }

// 16 x 16 bytes, row i at from + i * from_stride, transposed: four perfect shuffles of the rows.
inline void transpose(const uint8_t* from, int64_t from_stride, uint8_t* to, int64_t to_stride) {
    Bytes rows[LANES], shuffled[LANES];
    for (int i = 0; i < LANES; ++i) rows[i] = load(from + i * from_stride);
    for (int round = 0; round < 4; ++round) {
        for (int i = 0; i < LANES / 2; ++i) {
            const Bytes a = rows[i], b = rows[i + LANES / 2];
            shuffled[2 * i] = SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            shuffled[2 * i + 1] = SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        std::copy_n(shuffled, LANES, rows);
    }
    for (int i = 0; i < LANES; ++i) store(rows[i], to + i * to_stride);
}

// A row of pixels backwards, in place.
void mirror_row(uint8_t* row, int64_t width, std::vector<uint8_t>& spare) {
    const int64_t bytes = width * COLOURS, padded = bytes + 2 * LANES;
    spare.resize(2 * padded);
    uint8_t *forwards = &spare[LANES], *backwards = &spare[padded];
    std::memcpy(forwards, row, bytes);
    // Five pixels at a time; the sixteenth byte is overwritten by the next five.
    for (int64_t i = 0; i < bytes; i += 5 * COLOURS) {
        const Bytes pixels = load(forwards + bytes - 5 * COLOURS - i);
        store(SHUFFLE(pixels, pixels, 12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2, 15), backwards + i);
    }
    std::memcpy(row, backwards, bytes);
}

// Which pixels of a side, and with which weights, make those of the crop along it.
struct Axis {
    std::vector<int64_t> first, count;  // of each pixel of the crop
    std::vector<int32_t> weights;       // [crop, most]
    int64_t most;                       // pixels that can make one
    int precision = 0;

    Axis(int64_t side, int64_t scaled, int64_t from, int64_t crop) : first(crop), count(crop) {
        const double scale = double(side) / double(scaled), support = std::max(scale, 1.0);
        most = int64_t(std::ceil(support)) * 2 + 1;
        std::vector<double> own(most), exact(crop * most);
        double largest = 0;
        for (int64_t i = 0; i < scaled; ++i) {
            const double centre = scale * (i + 0.5);
            const int64_t begin = std::max<int64_t>(int64_t(centre - support + 0.5), 0);
            const int64_t n = std::min(std::min(int64_t(centre + support + 0.5), side) - begin, most);
            double total = 0;
            for (int64_t k = 0; k < n; ++k) total += own[k] = std::max(1 - std::abs((k + begin - centre + 0.5) / support), 0.0);
            for (int64_t k = 0; k < n; ++k) largest = std::max(largest, own[k] /= total);
            if (i >= from && i < from + crop) {
                first[i - from] = begin;
                count[i - from] = n;
                std::copy_n(own.begin(), n, exact.begin() + (i - from) * most);
            }
        }
        // The finest for which the weights of the whole image, not only of the crop, are numbers of 16 bits with a sign.
        while (precision < 22 && 0.5 + largest * (1 << (precision + 1)) < (1 << 15)) ++precision;
        for (const double weight : exact) weights.push_back(int32_t(0.5 + weight * (1 << precision)));
    }

    int64_t begin() const { return first.front(); }
    int64_t end() const { return first.back() + count.back(); }
};

// to[j] = the sum over k < count of weights[k] from[k * step + j] / 2^precision, rounded, of values j < bytes.
void weigh_plainly(
    const uint8_t* from, int64_t step, const int32_t* weights, int64_t count, int precision, int64_t bytes, uint8_t* to) {
    int32_t sums[ROWS];
    for (int64_t begin = 0; begin < bytes; begin += ROWS) {
        const int n = int(std::min<int64_t>(ROWS, bytes - begin));
        std::fill_n(sums, n, 1 << (precision - 1));
        for (int64_t k = 0; k < count; ++k)
            for (int j = 0; j < n; ++j) sums[j] += weights[k] * from[k * step + begin + j];
        for (int j = 0; j < n; ++j) to[begin + j] = uint8_t(std::min(sums[j] >> precision, 255));
    }
}

// The widest registers of an x86 processor, whose operations bear the same names.
#if defined(__AVX512BW__)
typedef __m512i Vector;
#define V(operation) _mm512_##operation
#elif defined(__AVX2__)
typedef __m256i Vector;
#define V(operation) _mm256_##operation
#elif defined(__SSE2__)
typedef __m128i Vector;
#define V(operation) _mm_##operation
#endif

inline void weigh(
    const uint8_t* from, int64_t step, const int32_t* weights, int64_t count, int precision, int64_t bytes, uint8_t* to) {
#ifdef V
    // Two values at a time that make one: interleaved and widened to 16 bits, an instruction multiplies both and adds them.
    constexpr int64_t SIZE = sizeof(Vector);
    const Vector zero = {}, half = V(set1_epi32)(1 << (precision - 1));
    for (int64_t j = 0; bytes >= SIZE && j < bytes; j += SIZE) {
        const int64_t at = std::min(j, bytes - SIZE);
        Vector sums[4] = {half, half, half, half};
        for (int64_t k = 0; k < count; k += 2) {
            Vector a, b = zero;
            std::memcpy(&a, from + k * step + at, SIZE);
            if (k + 1 < count) std::memcpy(&b, from + (k + 1) * step + at, SIZE);
            const Vector low = V(unpacklo_epi8)(a, b), high = V(unpackhi_epi8)(a, b);
            const Vector pair = V(set1_epi32)(weights[k] | (k + 1 < count ? weights[k + 1] << 16 : 0));
            sums[0] = V(add_epi32)(sums[0], V(madd_epi16)(V(unpacklo_epi8)(low, zero), pair));
            sums[1] = V(add_epi32)(sums[1], V(madd_epi16)(V(unpackhi_epi8)(low, zero), pair));
            sums[2] = V(add_epi32)(sums[2], V(madd_epi16)(V(unpacklo_epi8)(high, zero), pair));
            sums[3] = V(add_epi32)(sums[3], V(madd_epi16)(V(unpackhi_epi8)(high, zero), pair));
        }
        for (Vector& sum : sums) sum = V(srai_epi32)(sum, precision);
        // Interleaving and packing undo each other within 16 bytes; the last packing cuts off at 255.
        const Vector made = V(packus_epi16)(V(packs_epi32)(sums[0], sums[1]), V(packs_epi32)(sums[2], sums[3]));
        std::memcpy(to + at, &made, SIZE);
    }
    if (bytes >= SIZE) return;
#endif
    weigh_plainly(from, step, weights, count, precision, bytes, to);
}

// What a thread works with, kept between images.
struct Spare {
    std::vector<uint8_t> block, columns, made, sideways, row;
};

inline int64_t whole_lanes(int64_t bytes) { return (bytes + LANES - 1) / LANES * LANES; }

void cut_scaled(const uint8_t* region, const Place& place, int64_t crop, uint8_t* out, Spare& spare) {
    const Axis down(place.height, place.scaled_height, place.y, crop), across(place.width, place.scaled_width, place.x, crop);
    const int64_t rows = down.end() - down.begin(), bytes = (across.end() - across.begin()) * COLOURS;
    const int64_t made_bytes = crop * COLOURS, stride = place.region_width * COLOURS;
    const int64_t block_stride = whole_lanes(bytes), made_stride = whole_lanes(made_bytes);
    const uint8_t* first = region + (down.begin() - place.top) * stride + (across.begin() - place.left) * COLOURS;
    spare.block.resize(ROWS * block_stride);
    spare.columns.resize(ROWS * block_stride);
    spare.made.resize(ROWS * made_stride);
    spare.sideways.resize((rows + ROWS) * made_stride);
    for (int64_t top = 0; top < rows; top += ROWS) {
        // Read row by row, as it lies in memory; what a block has beyond the last row and column is not used.
        for (int64_t r = 0; r < std::min<int64_t>(ROWS, rows - top); ++r)
            std::memcpy(&spare.block[r * block_stride], first + (top + r) * stride, bytes);
        for (int64_t j = 0; j < block_stride; j += LANES)
            for (int r = 0; r < ROWS; r += LANES)
                transpose(&spare.block[r * block_stride + j], block_stride, &spare.columns[j * ROWS + r], ROWS);
        for (int64_t i = 0; i < crop; ++i) {
            const uint8_t* from = &spare.columns[(across.first[i] - across.begin()) * COLOURS * ROWS];
            uint8_t* to = &spare.made[(place.mirror ? crop - 1 - i : i) * COLOURS * ROWS];
            for (int c = 0; c < COLOURS; ++c)
                weigh(
                    from + c * ROWS, COLOURS * ROWS, &across.weights[i * across.most], across.count[i], across.precision, ROWS,
                    to + c * ROWS);
        }
        for (int64_t j = 0; j < made_stride; j += LANES)
            for (int r = 0; r < ROWS; r += LANES)
                transpose(&spare.made[j * ROWS + r], ROWS, &spare.sideways[(top + r) * made_stride + j], made_stride);
    }
    for (int64_t i = 0; i < crop; ++i)
        weigh(
            &spare.sideways[(down.first[i] - down.begin()) * made_stride], made_stride, &down.weights[i * down.most], down.count[i],
            down.precision, made_bytes, out + i * made_bytes);
}

}  // namespace

// Crops [count, crop, crop, 3] of so many regions. Several threads may share the work: `next` is the first image that no thread
// has taken.
extern "C" void cut(
    const uint8_t* const* regions, const Place* places, int64_t count, int64_t crop, uint8_t* crops, int64_t* next) {
    Spare spare;
    const int64_t row = crop * COLOURS;
    for (int64_t i; (i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < count;) {
        const Place& place = places[i];
        uint8_t* out = crops + i * crop * row;
        if (place.height != place.scaled_height || place.width != place.scaled_width) {
            cut_scaled(regions[i], place, crop, out, spare);
        } else {
            std::memcpy(out, regions[i], crop * row);
            for (int64_t y = 0; place.mirror && y < crop; ++y) mirror_row(out + y * row, crop, spare.row);
        }
    }
}

// Mirror these images of [n, crop, crop, 3] in place.
extern "C" void mirror(uint8_t* crops, const int64_t* images, int64_t count, int64_t crop) {
    std::vector<uint8_t> spare;
    const int64_t row = crop * COLOURS;
    for (int64_t i = 0; i < count; ++i)
        for (int64_t y = 0; y < crop; ++y) mirror_row(crops + (images[i] * crop + y) * row, crop, spare);
}
