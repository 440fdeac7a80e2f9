// What native.cpp needs of a C library, without a system: memory that is never given back, so that an emulated
// processor can call its functions with nothing around them.
#include <cstddef>

alignas(16) static unsigned char heap[64 << 20];
static size_t used;

extern "C" {
void forget() { used = 0; }

void* memcpy(void* to, const void* from, size_t count) {
    // volatile: or the compiler would make a call of memcpy of this loop
    for (size_t i = 0; i < count; ++i) static_cast<volatile unsigned char*>(to)[i] = static_cast<const unsigned char*>(from)[i];
    return to;
}

void* memmove(void* to, const void* from, size_t count) {
    if (to <= from) return memcpy(to, from, count);
    for (size_t i = count; i-- > 0;) static_cast<volatile unsigned char*>(to)[i] = static_cast<const unsigned char*>(from)[i];
    return to;
}

void* memset(void* to, int value, size_t count) {
    for (size_t i = 0; i < count; ++i) static_cast<volatile unsigned char*>(to)[i] = static_cast<unsigned char>(value);
    return to;
}
}

void* operator new(size_t count) {
    unsigned char* found = heap + used;
    used += (count + 15) / 16 * 16;
    if (used > sizeof heap) __builtin_trap();
    return found;
}
void operator delete(void*) noexcept {}
void operator delete(void*, size_t) noexcept {}

namespace std {
inline namespace __1 {
[[noreturn]] void __libcpp_verbose_abort(const char*, ...) { __builtin_trap(); }
}
}  // namespace std
