// What follows a convolution, image by image while it is in the cache: relu, local response norm, max pooling, relu; any of them.
//
// Maps are channels last: x [n, height, width, channels]. Without pooling y has x's shape; with it y and index are
// [n, out_height, out_width, channels], and index holds which pixel of its window each value came from, or NOWHERE where the last
// relu cut it off. Images are independent of one another, so any division of a batch among threads gives the same bits.

#include <algorithm>
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

// s ^ -0.75 of a normal number, within two units of the last place: 1 / (sqrt(s) sqrt(sqrt(s))) takes four times as long. A line
// through the logarithm gives a twentieth of the error away, and three of Newton's steps for y^-4 = s^3 the rest.
inline float inverse_power_75(float s) {
    uint32_t bits;
    std::memcpy(&bits, &s, sizeof bits);
    bits = 0x6F150000 - (bits >> 1) - (bits >> 2);
    float y;
    std::memcpy(&y, &bits, sizeof y);
    for (int step = 0; step < 3; ++step) {
        const float z = s * y, square = z * z;
        y *= 1.25f - 0.25f * (square * (z * y));
    }
    return y;
}

// Pixels are computed a strip at a time, of about so many values: several buffers of a strip are in the nearest cache together.
constexpr int64_t STRIP = 1024;

struct Scratch {
    explicit Scratch(const Tail& t)
        : pixels(std::max<int64_t>(1, STRIP / t.channels)), margin(t.norm_size / 2), map(t.height * t.width * t.channels),
          maps(pixels * t.channels), sums(maps.size()), power(maps.size()), gradient(maps.size()),
          padded(pixels * (t.channels + 2 * margin)), best(t.channels), place(t.channels) {}
    int64_t pixels, margin;
    std::vector<float> map;                                  // an image
    std::vector<float> maps, sums, power, gradient, padded;  // a strip; padded: with zeros around each pixel's channels
    std::vector<float> best;                                 // a pixel
    std::vector<int32_t> place;
};

// sums = the sum over the window around each channel of what `value` gives for i in 0 .. count - 1. All values are written before
// the first is read: loads that straddle stores still on their way are slow.
template <class Value>
inline void window_sums(const Tail& t, int64_t count, Scratch& s, Value value) {
    const int64_t channels = t.channels, stride = channels + 2 * s.margin;
    float* padded = s.padded.data();
    for (int64_t pixel = 0, at = s.margin; pixel < count; pixel += channels, at += stride)
        for (int64_t c = 0; c < channels; ++c) padded[at + c] = value(pixel + c);
    float* sums = s.sums.data();
    for (int64_t pixel = 0, at = 0; pixel < count; pixel += channels, at += stride) {
        const float* v = padded + at;
        if (t.norm_size == 5) {
            for (int64_t c = 0; c < channels; ++c) sums[pixel + c] = v[c] + v[c + 1] + v[c + 2] + v[c + 3] + v[c + 4];
            continue;
        }
        for (int64_t c = 0; c < channels; ++c) sums[pixel + c] = v[c];
        for (int offset = 1; offset < t.norm_size; ++offset)
            for (int64_t c = 0; c < channels; ++c) sums[pixel + c] += v[c + offset];
    }
}

// The strip's maps after the first relu go to s.maps; k + alpha * (sum of squares) to s.sums; its power to s.power.
template <class T>
inline void scale_strip(const Tail& t, const T* x, int64_t count, Scratch& s) {
    float* maps = s.maps.data();
    for (int64_t i = 0; i < count; ++i) maps[i] = wide(x[i]);
    if (t.relu_first)
        for (int64_t i = 0; i < count; ++i) maps[i] = relu(maps[i]);
    if (!t.norm_size) return;
    window_sums(t, count, s, [maps](int64_t i) { return maps[i] * maps[i]; });
    float *sums = s.sums.data(), *power = s.power.data();
    for (int64_t i = 0; i < count; ++i) sums[i] = t.norm_k + t.norm_alpha * sums[i];
    if (t.norm_beta == 0.75f)
        for (int64_t i = 0; i < count; ++i) power[i] = inverse_power_75(sums[i]);
    else
        for (int64_t i = 0; i < count; ++i) power[i] = std::pow(sums[i], -t.norm_beta);
}

template <class T, class To>
inline void follow_strip(const Tail& t, const T* x, To* to, int64_t count, Scratch& s) {
    scale_strip(t, x, count, s);
    const float *maps = s.maps.data(), *power = s.power.data();
    if (t.norm_size)
        for (int64_t i = 0; i < count; ++i) put(maps[i] * power[i], to[i]);
    else
        for (int64_t i = 0; i < count; ++i) put(maps[i], to[i]);
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
inline void back_strip(const Tail& t, const T* x, const From* gradient, T* x_gradient, int64_t count, Scratch& s) {
    float *maps = s.maps.data(), *own = s.gradient.data();
    for (int64_t i = 0; i < count; ++i) own[i] = wide(gradient[i]);
    if (t.norm_size) {
        scale_strip(t, x, count, s);
        float *sums = s.sums.data(), *power = s.power.data();
        for (int64_t i = 0; i < count; ++i) own[i] *= power[i];
        for (int64_t i = 0; i < count; ++i) power[i] = own[i] * maps[i] / sums[i];
        window_sums(t, count, s, [power](int64_t i) { return power[i]; });
        const float factor = 2 * t.norm_alpha * t.norm_beta;
        for (int64_t i = 0; i < count; ++i) own[i] -= factor * maps[i] * sums[i];
    }
    if (t.relu_first)
        for (int64_t i = 0; i < count; ++i) put(wide(x[i]) > 0 ? own[i] : 0.0f, x_gradient[i]);
    else
        for (int64_t i = 0; i < count; ++i) put(own[i], x_gradient[i]);
}

template <class T>
void forward(const Tail& t, const T* x, T* y, uint8_t* index, int64_t first, int64_t last) {
    Scratch s(t);
    const int64_t in = t.height * t.width * t.channels, out = t.pool_kernel ? t.out_height * t.out_width * t.channels : in;
    const int64_t strip = s.pixels * t.channels;
    for (int64_t n = first; n < last; ++n) {
        for (int64_t i = 0; i < in; i += strip) {
            const int64_t count = std::min(strip, in - i);
            if (t.pool_kernel)
                follow_strip(t, x + n * in + i, s.map.data() + i, count, s);
            else
                follow_strip(t, x + n * in + i, y + n * out + i, count, s);
        }
        if (t.pool_kernel) pool_image(t, s.map.data(), y + n * out, index ? index + n * out : nullptr, s);
    }
}

template <class T>
void backward(const Tail& t, const T* x, const uint8_t* index, const T* gradient, T* x_gradient, int64_t first, int64_t last) {
    Scratch s(t);
    const int64_t in = t.height * t.width * t.channels, out = t.pool_kernel ? t.out_height * t.out_width * t.channels : in;
    const int64_t strip = s.pixels * t.channels;
    for (int64_t n = first; n < last; ++n) {
        if (t.pool_kernel) unpool_image(t, gradient + n * out, index + n * out, s.map.data(), s);
        for (int64_t i = 0; i < in; i += strip) {
            const int64_t count = std::min(strip, in - i);
            if (t.pool_kernel)
                back_strip(t, x + n * in + i, s.map.data() + i, x_gradient + n * in + i, count, s);
            else
                back_strip(t, x + n * in + i, gradient + n * out + i, x_gradient + n * in + i, count, s);
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
