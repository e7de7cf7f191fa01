// What follows a convolution, image by image while it is in the cache: relu, local response norm, max pooling, relu; any of them.
//
// Maps are channels last: x [n, height, width, channels]. Without pooling y has x's shape; with it y and index are
// [n, out_height, out_width, channels], and index holds which pixel of its window each value came from, or NOWHERE where the last
// relu cut it off. Images are independent of one another, so any division of a batch among threads gives the same bits.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr uint8_t NOWHERE = 255;

// The same fields in the same order as in tail.py.
struct Tail {
    int64_t height, width, channels;
    int32_t relu_first;
    int32_t norm_size;  // maps of a window; 0: no norm
    float norm_k, norm_alpha, norm_beta;  // alpha is divided by the size already
    int32_t pool_kernel, pool_stride, pool_pad;  // kernel 0: no pooling
    int64_t out_height, out_width;
    int32_t relu_last;
};

struct Bf16 {
    uint16_t bits;
};

inline float wide(float value) { return value; }

inline float wide(Bf16 value) {
    const uint32_t bits = uint32_t(value.bits) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

inline void put(float value, float& to) { to = value; }

// To the nearest, ties to even; what is no number stays none.
inline void put(float value, Bf16& to) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const uint16_t nearest = uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    to.bits = value == value ? nearest : uint16_t(0x7FC0);
}

inline float relu(float value) { return value < 0 ? 0 : value; }  // what is no number stays none

// s ^ -beta
inline float inverse_power(float s, float beta) {
    if (beta == 0.75f) {
        const float root = std::sqrt(s);
        return 1 / (root * std::sqrt(root));
    }
    return std::pow(s, -beta);
}

// sums[c] = the sum of values[c .. c + size - 1]; `values` has size / 2 zeros on either side of its channels.
inline void window_sums(const float* values, float* sums, int64_t channels, int size) {
    if (size == 5) {
        for (int64_t c = 0; c < channels; ++c)
            sums[c] = values[c] + values[c + 1] + values[c + 2] + values[c + 3] + values[c + 4];
        return;
    }
    std::memset(sums, 0, channels * sizeof(float));
    for (int offset = 0; offset < size; ++offset)
        for (int64_t c = 0; c < channels; ++c) sums[c] += values[c + offset];
}

struct Scratch {
    explicit Scratch(const Tail& t)
        : map(t.height * t.width * t.channels), maps(t.channels), padded(t.channels + 2 * (t.norm_size / 2)),
          sums(t.channels), power(t.channels), gradient(t.channels), best(t.channels), place(t.channels) {}
    std::vector<float> map;  // an image
    std::vector<float> maps, padded, sums, power, gradient, best;  // a pixel
    std::vector<int32_t> place;
};

// The pixel's maps after the first relu go to s.maps; k + alpha * (sum of squares) to s.sums; its power to s.power.
template <class T>
inline void scale_pixel(const Tail& t, const T* x, Scratch& s) {
    float* maps = s.maps.data();
    for (int64_t c = 0; c < t.channels; ++c) maps[c] = wide(x[c]);
    if (t.relu_first)
        for (int64_t c = 0; c < t.channels; ++c) maps[c] = relu(maps[c]);
    if (!t.norm_size) return;
    float* squares = s.padded.data() + t.norm_size / 2;
    for (int64_t c = 0; c < t.channels; ++c) squares[c] = maps[c] * maps[c];
    float *sums = s.sums.data(), *power = s.power.data();
    window_sums(s.padded.data(), sums, t.channels, t.norm_size);
    for (int64_t c = 0; c < t.channels; ++c) sums[c] = t.norm_k + t.norm_alpha * sums[c];
    const float beta = t.norm_beta;
    if (beta == 0.75f)
        for (int64_t c = 0; c < t.channels; ++c) power[c] = inverse_power(sums[c], 0.75f);
    else
        for (int64_t c = 0; c < t.channels; ++c) power[c] = inverse_power(sums[c], beta);
}

template <class T, class To>
inline void follow_pixel(const Tail& t, const T* x, To* to, Scratch& s) {
    scale_pixel(t, x, s);
    const float *maps = s.maps.data(), *power = s.power.data();
    if (t.norm_size)
        for (int64_t c = 0; c < t.channels; ++c) put(maps[c] * power[c], to[c]);
    else
        for (int64_t c = 0; c < t.channels; ++c) put(maps[c], to[c]);
}

template <class T>
void pool_image(const Tail& t, const float* map, T* y, uint8_t* index, Scratch& s) {
    const int64_t channels = t.channels;
    float* best = s.best.data();
    int32_t* place = s.place.data();
    for (int64_t out_row = 0; out_row < t.out_height; ++out_row)
        for (int64_t out_column = 0; out_column < t.out_width; ++out_column) {
            for (int64_t c = 0; c < channels; ++c) best[c] = -INFINITY;
            for (int64_t c = 0; c < channels; ++c) place[c] = 0;
            for (int32_t j = 0; j < t.pool_kernel * t.pool_kernel; ++j) {
                const int64_t row = out_row * t.pool_stride - t.pool_pad + j / t.pool_kernel;
                const int64_t column = out_column * t.pool_stride - t.pool_pad + j % t.pool_kernel;
                if (row < 0 || column < 0 || row >= t.height || column >= t.width) continue;
                const float* from = map + (row * t.width + column) * channels;
                for (int64_t c = 0; c < channels; ++c) {
                    const bool better = (from[c] > best[c]) | (from[c] != from[c]);
                    best[c] = better ? from[c] : best[c];
                    place[c] = better ? j : place[c];
                }
            }
            if (t.relu_last)
                for (int64_t c = 0; c < channels; ++c) {
                    place[c] = best[c] <= 0 ? NOWHERE : place[c];
                    best[c] = relu(best[c]);
                }
            const int64_t at = (out_row * t.out_width + out_column) * channels;
            for (int64_t c = 0; c < channels; ++c) put(best[c], y[at + c]);
            if (index)
                for (int64_t c = 0; c < channels; ++c) index[at + c] = uint8_t(place[c]);
        }
}

// Adds the gradients of y to the pixels of `map` that they came from.
template <class T>
void unpool_image(const Tail& t, const T* gradient, const uint8_t* index, float* map, Scratch& s) {
    const int64_t channels = t.channels;
    std::memset(map, 0, t.height * t.width * channels * sizeof(float));
    float* arriving = s.gradient.data();
    int32_t* place = s.place.data();
    for (int64_t out_row = 0; out_row < t.out_height; ++out_row)
        for (int64_t out_column = 0; out_column < t.out_width; ++out_column) {
            const int64_t at = (out_row * t.out_width + out_column) * channels;
            for (int64_t c = 0; c < channels; ++c) arriving[c] = wide(gradient[at + c]);
            for (int64_t c = 0; c < channels; ++c) place[c] = index[at + c];
            for (int32_t j = 0; j < t.pool_kernel * t.pool_kernel; ++j) {
                const int64_t row = out_row * t.pool_stride - t.pool_pad + j / t.pool_kernel;
                const int64_t column = out_column * t.pool_stride - t.pool_pad + j % t.pool_kernel;
                if (row < 0 || column < 0 || row >= t.height || column >= t.width) continue;
                float* to = map + (row * t.width + column) * channels;
                for (int64_t c = 0; c < channels; ++c) to[c] += place[c] == j ? arriving[c] : 0;
            }
        }
}

// With a the maps after the first relu, s the scales, p = s ^ -beta and g the gradient of a p:
// g p - 2 alpha beta a (sum over the window of g a p / s), and nothing where the first relu cut off.
template <class T, class From>
inline void back_pixel(const Tail& t, const T* x, const From* gradient, T* x_gradient, Scratch& s) {
    const int64_t channels = t.channels;
    scale_pixel(t, x, s);
    float *maps = s.maps.data(), *own = s.gradient.data();
    for (int64_t c = 0; c < channels; ++c) own[c] = wide(gradient[c]);
    if (t.norm_size) {
        float *sums = s.sums.data(), *power = s.power.data(), *through = s.padded.data() + t.norm_size / 2;
        for (int64_t c = 0; c < channels; ++c) own[c] *= power[c];
        for (int64_t c = 0; c < channels; ++c) through[c] = own[c] * maps[c] / sums[c];
        window_sums(s.padded.data(), sums, channels, t.norm_size);
        const float factor = 2 * t.norm_alpha * t.norm_beta;
        for (int64_t c = 0; c < channels; ++c) own[c] -= factor * maps[c] * sums[c];
    }
    if (t.relu_first)
        for (int64_t c = 0; c < channels; ++c) put(wide(x[c]) > 0 ? own[c] : 0.0f, x_gradient[c]);
    else
        for (int64_t c = 0; c < channels; ++c) put(own[c], x_gradient[c]);
}

template <class T>
void forward(const Tail& t, const T* x, T* y, uint8_t* index, int64_t first, int64_t last) {
    Scratch s(t);
    const int64_t pixels = t.height * t.width, in = pixels * t.channels;
    const int64_t out = t.pool_kernel ? t.out_height * t.out_width * t.channels : in;
    for (int64_t n = first; n < last; ++n) {
        for (int64_t i = 0; i < in; i += t.channels) {
            if (t.pool_kernel)
                follow_pixel(t, x + n * in + i, s.map.data() + i, s);
            else
                follow_pixel(t, x + n * in + i, y + n * out + i, s);
        }
        if (t.pool_kernel) pool_image(t, s.map.data(), y + n * out, index ? index + n * out : nullptr, s);
    }
}

template <class T>
void backward(const Tail& t, const T* x, const uint8_t* index, const T* gradient, T* x_gradient, int64_t first, int64_t last) {
    Scratch s(t);
    const int64_t pixels = t.height * t.width, in = pixels * t.channels;
    const int64_t out = t.pool_kernel ? t.out_height * t.out_width * t.channels : in;
    for (int64_t n = first; n < last; ++n) {
        if (t.pool_kernel) unpool_image(t, gradient + n * out, index + n * out, s.map.data(), s);
        for (int64_t i = 0; i < in; i += t.channels) {
            if (t.pool_kernel)
                back_pixel(t, x + n * in + i, s.map.data() + i, x_gradient + n * in + i, s);
            else
                back_pixel(t, x + n * in + i, gradient + n * out + i, x_gradient + n * in + i, s);
        }
    }
}

}  // namespace

extern "C" {

void tail_forward_float(const Tail* t, const float* x, float* y, uint8_t* index, int64_t first, int64_t last) {
    forward(*t, x, y, index, first, last);
}

void tail_forward_bf16(const Tail* t, const Bf16* x, Bf16* y, uint8_t* index, int64_t first, int64_t last) {
    forward(*t, x, y, index, first, last);
}

void tail_backward_float(
    const Tail* t, const float* x, const uint8_t* index, const float* gradient, float* x_gradient, int64_t first, int64_t last) {
    backward(*t, x, index, gradient, x_gradient, first, last);
}

void tail_backward_bf16(
    const Tail* t, const Bf16* x, const uint8_t* index, const Bf16* gradient, Bf16* x_gradient, int64_t first, int64_t last) {
    backward(*t, x, index, gradient, x_gradient, first, last);
}
}
