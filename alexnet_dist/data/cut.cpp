// Crops of decoded images, uint8 RGB, three bytes a pixel: scaled, cut and mirrored.
//
// The pixels are those of torch's antialiased bilinear scaling of bytes, which are Pillow's, of the whole image: a pixel is a
// weighted sum of those that a triangle reaches, first along each row, rounded to a byte, then along each column. Weights are whole
// numbers of 2^-precision. Only the crop is computed. For the way along the rows, processors that can put the bytes of a register
// in any order do so, where all that is weighed fits in one; else 64 rows are transposed, so that what has the same weight lies side
// by side, and transposed back.

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
constexpr int64_t LINE = 64;  // bytes of a cache line

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

// Ask for bytes early: what another core has decoded lies in that core's cache.
template <bool TO_WRITE>
inline void fetch(const uint8_t* from, const uint8_t* end) {
    for (; from < end; from += LINE) __builtin_prefetch(from, TO_WRITE);
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
            double total = 0, highest = 0;
            for (int64_t k = 0; k < n; ++k) {
                own[k] = std::max(1 - std::abs((k + begin - centre + 0.5) / support), 0.0);
                total += own[k];
                highest = std::max(highest, own[k]);
            }
            largest = std::max(largest, highest / total);
            if (i >= from && i < from + crop) {
                first[i - from] = begin;
                count[i - from] = n;
                for (int64_t k = 0; k < n; ++k) exact[(i - from) * most + k] = own[k] / total;
            }
        }
        // The finest for which the weights of the whole image, not only of the crop, are numbers of 16 bits with a sign.
        while (precision < 22 && 0.5 + largest * (1 << (precision + 1)) < (1 << 15)) ++precision;
        weights.resize(crop * most);
        std::transform(exact.begin(), exact.end(), weights.begin(), [&](double w) { return int32_t(0.5 + w * (1 << precision)); });
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

#if defined(__AVX512VBMI__)
// How a row of the crop is made, 16 bytes at a time: the pixels that they need fit in a register, whose bytes are put in the order
// in which they are weighed.
struct Gather {
    static constexpr int64_t MADE = 16, MOST_PAIRS = 3, ROWS_AT_ONCE = 4;

    struct Step {
        __m512i order, weights;  // of two bytes for each one made, widened to 16 bits
    };
    struct Part {
        int64_t begin;     // in the row of the region
        __mmask64 wanted;  // bytes from there on
    };
    std::vector<Part> parts;
    std::vector<Step> steps;  // [parts, pairs]
    int64_t pairs;
    bool fits;

    Gather(const Axis& across, int64_t crop, bool mirror) {
        pairs = (*std::max_element(across.count.begin(), across.count.end()) + 1) / 2;
        fits = pairs <= MOST_PAIRS;
        for (int64_t from = 0; fits && from < crop * COLOURS; from += MADE) {
            const int64_t made = std::min(MADE, crop * COLOURS - from);
            int64_t pixels[MADE], begin = INT64_MAX, end = 0;
            for (int64_t j = 0; j < made; ++j) {
                const int64_t pixel = (from + j) / COLOURS, i = mirror ? crop - 1 - pixel : pixel;
                pixels[j] = i;
                begin = std::min(begin, across.first[i]);
                end = std::max(end, across.first[i] + across.count[i]);
            }
            const int64_t bytes = (end - begin) * COLOURS;
            fits = bytes <= int64_t(sizeof(__m512i));
            if (!fits) break;
            parts.push_back({(begin - across.begin()) * COLOURS, ~__mmask64(0) >> (64 - bytes)});
            for (int64_t k = 0; k < 2 * pairs; k += 2) {
                uint8_t order[64] = {};
                uint16_t weights[32] = {};
                for (int64_t j = 0; j < made; ++j) {
                    const int64_t i = pixels[j], colour = (from + j) % COLOURS;
                    for (int64_t tap = k; tap < std::min(k + 2, across.count[i]); ++tap) {
                        order[4 * j + 2 * (tap - k)] = uint8_t((across.first[i] - begin + tap) * COLOURS + colour);
                        weights[2 * j + tap - k] = uint16_t(across.weights[i * across.most + tap]);
                    }
                }
                steps.push_back({_mm512_loadu_si512(order), _mm512_loadu_si512(weights)});
            }
        }
    }

    // Rows of the region -> rows of the crop's width, which have room for whole lanes.
    void run(const uint8_t* from, int64_t from_stride, int64_t rows, int precision, uint8_t* to, int64_t to_stride) const {
        const auto run = pairs == 1 ? &Gather::run_pairs<1> : pairs == 2 ? &Gather::run_pairs<2> : &Gather::run_pairs<3>;
        for (int64_t top = 0; top < rows; top += ROWS_AT_ONCE) {
            const int64_t next = std::min(top + ROWS_AT_ONCE, rows), after = std::min(next + ROWS_AT_ONCE, rows);
            fetch<false>(from + next * from_stride, from + after * from_stride);
            (this->*run)(from + top * from_stride, from_stride, next - top, precision, to + top * to_stride, to_stride);
        }
    }

    template <int PAIRS>
    void run_pairs(const uint8_t* from, int64_t from_stride, int64_t rows, int precision, uint8_t* to, int64_t to_stride) const {
        const __m512i half = _mm512_set1_epi32(1 << (precision - 1));
        for (size_t part = 0; part < parts.size(); ++part) {
            Step own[PAIRS];
            std::copy_n(&steps[part * PAIRS], PAIRS, own);
            const Part at = parts[part];
            for (int64_t r = 0; r < rows; ++r) {
                const __m512i bytes = _mm512_maskz_loadu_epi8(at.wanted, from + r * from_stride + at.begin);
                __m512i sum = half;
                for (int k = 0; k < PAIRS; ++k) {
                    const __m512i two = _mm512_maskz_permutexvar_epi8(0x5555555555555555, own[k].order, bytes);
                    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(two, own[k].weights));
                }
                const __m128i made = _mm512_cvtusepi32_epi8(_mm512_srai_epi32(sum, precision));
                std::memcpy(to + r * to_stride + int64_t(part) * MADE, &made, sizeof made);
            }
        }
    }
};
#endif

// What a thread works with, kept between images.
struct Spare {
    std::vector<uint8_t> block, columns, made, sideways, row;
};

inline int64_t whole_lanes(int64_t bytes) { return (bytes + LANES - 1) / LANES * LANES; }

// Rows of the region -> rows of the crop's width, in spare.sideways, `made_stride` apart.
void scale_sideways(
    const uint8_t* from, int64_t stride, int64_t rows, const Axis& across, int64_t crop, bool mirror, int64_t made_stride,
    Spare& spare) {
    spare.sideways.resize((rows + ROWS) * made_stride);
#if defined(__AVX512VBMI__)
    const Gather gather(across, crop, mirror);
    if (gather.fits) return gather.run(from, stride, rows, across.precision, spare.sideways.data(), made_stride);
#endif
    const int64_t bytes = (across.end() - across.begin()) * COLOURS, block_stride = whole_lanes(bytes);
    spare.block.resize(ROWS * block_stride);
    spare.columns.resize(ROWS * block_stride);
    spare.made.resize(ROWS * made_stride);
    for (int64_t top = 0; top < rows; top += ROWS) {
        // Read row by row, as it lies in memory; what a block has beyond the last row and column is not used.
        for (int64_t r = 0; r < std::min<int64_t>(ROWS, rows - top); ++r)
            std::memcpy(&spare.block[r * block_stride], from + (top + r) * stride, bytes);
        for (int64_t j = 0; j < block_stride; j += LANES)
            for (int r = 0; r < ROWS; r += LANES)
                transpose(&spare.block[r * block_stride + j], block_stride, &spare.columns[j * ROWS + r], ROWS);
        for (int64_t i = 0; i < crop; ++i) {
            const uint8_t* column = &spare.columns[(across.first[i] - across.begin()) * COLOURS * ROWS];
            uint8_t* to = &spare.made[(mirror ? crop - 1 - i : i) * COLOURS * ROWS];
            for (int c = 0; c < COLOURS; ++c)
                weigh(
                    column + c * ROWS, COLOURS * ROWS, &across.weights[i * across.most], across.count[i], across.precision, ROWS,
                    to + c * ROWS);
        }
        for (int64_t j = 0; j < made_stride; j += LANES)
            for (int r = 0; r < ROWS; r += LANES)
                transpose(&spare.made[j * ROWS + r], ROWS, &spare.sideways[(top + r) * made_stride + j], made_stride);
    }
}

void cut_scaled(const uint8_t* region, const Place& place, int64_t crop, uint8_t* out, Spare& spare) {
    const Axis down(place.height, place.scaled_height, place.y, crop), across(place.width, place.scaled_width, place.x, crop);
    const int64_t stride = place.region_width * COLOURS, made_bytes = crop * COLOURS, made_stride = whole_lanes(made_bytes);
    const uint8_t* from = region + (down.begin() - place.top) * stride + (across.begin() - place.left) * COLOURS;
    scale_sideways(from, stride, down.end() - down.begin(), across, crop, place.mirror, made_stride, spare);
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
    for (int64_t i = 0; i < count; ++i) {
        uint8_t* image = crops + images[i] * crop * row;
        for (int64_t y = 0; y < crop; ++y) {
            fetch<true>(image + std::min(y + 4, crop) * row, image + std::min(y + 5, crop) * row);
            mirror_row(image + y * row, crop, spare);
        }
    }
}
