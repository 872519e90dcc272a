/* FNV-1a, 64 bits: tells damaged or different data apart, keeps no secret. */
#ifndef COMMON_HASH_H
#define COMMON_HASH_H
#include <stddef.h>
#include <stdint.h>

/* The hash of `size` bytes, going on from `hash` (HASH_START for the first). */
#define HASH_START UINT64_C(0xcbf29ce484222325)
uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t size);

#endif
