#include "cli/arms.h"
#include "common/stats.h"
#include "prefix_ntk/feature.h"
#include "tests/support/fuzz.h"
#include "transformer/adapter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char feature[] = "favor-orth:128", polynomial[] = "minimax:3", arm[] = "lora+rank=4+alpha=8.5",
                  summary[] = "ntk+feature=taylor:2+bound=4+k_mode=log+whiten=1", within[] = "in [-0.55, 4.5e1]",
                  below[] = "<= 1e-3", targets[] = "q,v,fc1";

#define SEED(x) { x, sizeof x - 1 }
const struct fuzz_seed fuzz_seeds[] = { SEED(feature), SEED(polynomial), SEED(arm), SEED(summary), SEED(within),
                                        SEED(below), SEED(targets) };
const size_t fuzz_num_seeds = sizeof fuzz_seeds / sizeof *fuzz_seeds;

static void check_feature(const char *text)
{
    struct feature_spec spec, again;
    char name[64];
    if (feature_spec_parse(text, &spec)) return;
    /* Written out it means the same. */
    if (feature_spec_text(&spec, name, sizeof name) >= (int)sizeof name || feature_spec_parse(name, &again)) abort();
    if (spec.family != again.family || spec.order != again.order) abort();
    feature_map *map = NULL;
    if (spec.order > 256 || feature_map_alloc(&spec, 3, 1.5, 7, NULL, &map)) return;
    if (!feature_dim(map) || feature_head_dim(map) != 3) abort();
    feature_map_free(map);
}

static void check_arm(const char *text)
{
    char line[256] = "";
    struct arm made;
    if (arm_parse(text, &made, (struct reason){ line, sizeof line })) {
        /* A refusal is one line. */
        if (!*line || strchr(line, '\n')) abort();
        return;
    }
    const struct adapter_options *o = &made.options;
    if (strcmp(made.text, text)) abort();
    if (!isfinite(o->alpha) || !isfinite(o->bound) || !isfinite(o->init_scale) || !isfinite(o->start_mass)) abort();
}

/* The words of options and ledgers. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *text = fuzz_text(bytes, size);
    struct margin margin;
    enum adapter_method method;
    enum adapter_k_mode mode;
    unsigned bits;
    check_feature(text);
    check_arm(text);
    if (!margin_parse(text, &margin) && (isnan(margin.lo) || isnan(margin.hi) || margin.lo > margin.hi)) abort();
    if (!adapter_method_parse(text, &method) && (unsigned)method >= NUM_ADAPTER_METHODS) abort();
    if (!adapter_k_mode_parse(text, &mode) && (unsigned)mode > ADAPTER_K_TIED) abort();
    if (!adapter_targets_parse(text, &bits) && (!bits || bits >> NUM_PROJECTIONS)) abort();
    free(text);
    return 0;
}
