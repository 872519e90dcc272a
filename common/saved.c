#include "common/saved.h"

#include <gsl/gsl_errno.h>
#include <string.h>

#include "common/hash.h"

struct head {
    char magic[8];
    uint32_t order, version;
    char kind[8];
    uint64_t size, identity, sizes[SAVED_SIZES];
};
_Static_assert(sizeof(struct head) == SAVED_HEAD, "the layout of saved.h");

static const char MAGIC[8] = { 'P', 'N', 'T', 'K', 'S', 'U', 'M', '\n' };
static const uint32_t ORDER = 0x0a0b0c0d;

size_t saved_size(size_t numbers)
{
    return numbers > (SIZE_MAX - SAVED_HEAD - 8) / sizeof(double) ? SIZE_MAX
                                                                    : SAVED_HEAD + numbers * sizeof(double) + 8;
}

static struct head head_of(const char *kind, size_t size, uint64_t identity)
{
    struct head head = { .order = ORDER, .version = SAVED_VERSION, .size = size, .identity = identity };
    memcpy(head.magic, MAGIC, sizeof MAGIC);
    memcpy(head.kind, kind, strnlen(kind, sizeof head.kind));
    return head;
}

void saved_seal(void *bytes, size_t size, const char *kind, uint64_t identity, const uint64_t sizes[SAVED_SIZES])
{
    struct head head = head_of(kind, size, identity);
    memcpy(head.sizes, sizes, sizeof head.sizes);
    memcpy(bytes, &head, sizeof head);
    const uint64_t sum = hash_bytes(HASH_START, bytes, size - sizeof sum);
    memcpy((char *)bytes + size - sizeof sum, &sum, sizeof sum);
}

int saved_check(const void *bytes, size_t size, const char *kind, uint64_t identity, uint64_t sizes[SAVED_SIZES])
{
    struct head head;
    uint64_t sum;
    if (size < sizeof head + sizeof sum) return GSL_ESANITY;
    memcpy(&head, bytes, sizeof head);
    const struct head wanted = head_of(kind, size, identity);
    if (memcmp(head.magic, wanted.magic, sizeof head.magic) || head.order != wanted.order ||
        head.version != wanted.version || head.size != size)
        return GSL_ESANITY;
    memcpy(&sum, (const char *)bytes + size - sizeof sum, sizeof sum);
    if (sum != hash_bytes(HASH_START, bytes, size - sizeof sum)) return GSL_ESANITY;
    if (memcmp(head.kind, wanted.kind, sizeof head.kind) || head.identity != identity) return GSL_EINVAL;
    memcpy(sizes, head.sizes, sizeof head.sizes);
    return GSL_SUCCESS;
}
