// v <- momentum v - rate (g + decay w); w <- w + v, of values first .. last - 1, in one pass (paper, section 5).

#include <cstdint>

extern "C" void update(
    float* w, float* v, const float* g, float rate, float momentum, float decay, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
        v[i] = momentum * v[i] - rate * (g[i] + decay * w[i]);
        w[i] += v[i];
    }
}
