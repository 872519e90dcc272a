/* The tables of backbone_naming.h. */
#include "transformer/backbone_naming.h"

#include <string.h>

static const struct naming bert_globals[] = {
    { "embed.token", "embeddings.word_embeddings.weight", "vh" },
    { "embed.position", "embeddings.position_embeddings.weight", "ph" },
    { "embed.type", "embeddings.token_type_embeddings.weight", "th" },
    { "embed.norm.weight", "embeddings.LayerNorm.weight", "h" },
    { "embed.norm.bias", "embeddings.LayerNorm.bias", "h" },
    { "relative_bias", "encoder.relative_attention_bias.weight", "ba" },
    { NULL, NULL, NULL }
};
static const struct naming vit_globals[] = {
    { "embed.cls", "embeddings.cls_token", "h" },
    { "embed.position", "embeddings.position_embeddings", "qh" },
    { "embed.patch.weight", "embeddings.patch_embeddings.projection.weight", "hc" },
    { "embed.patch.bias", "embeddings.patch_embeddings.projection.bias", "h" },
    { "final_norm.weight", "layernorm.weight", "h" },
    { "final_norm.bias", "layernorm.bias", "h" },
    { NULL, NULL, NULL }
};

/* Parts of a block: matrices have .weight and .bias, norms too, scales are one vector. */
static const struct naming bert_block[] = {
    { "q", "attention.self.query", "hh" }, { "k", "attention.self.key", "hh" }, { "v", "attention.self.value", "hh" },
    { "o", "attention.output.dense", "hh" }, { "norm1", "attention.output.LayerNorm", "h" },
    { "fc1", "intermediate.dense", "mh" }, { "fc2", "output.dense", "hm" }, { "norm2", "output.LayerNorm", "h" },
    { NULL, NULL, NULL }
};
static const struct naming mpnet_block[] = {
    { "q", "attention.attn.q", "hh" }, { "k", "attention.attn.k", "hh" }, { "v", "attention.attn.v", "hh" },
    { "o", "attention.attn.o", "hh" }, { "norm1", "attention.LayerNorm", "h" },
    { "fc1", "intermediate.dense", "mh" }, { "fc2", "output.dense", "hm" }, { "norm2", "output.LayerNorm", "h" },
    { NULL, NULL, NULL }
};
static const struct naming vit_block[] = {
    { "norm1", "layernorm_before", "h" }, { "q", "attention.attention.query", "hh" },
    { "k", "attention.attention.key", "hh" }, { "v", "attention.attention.value", "hh" },
    { "o", "attention.output.dense", "hh" }, { "norm2", "layernorm_after", "h" },
    { "fc1", "intermediate.dense", "mh" }, { "fc2", "output.dense", "hm" }, { NULL, NULL, NULL }
};
static const struct naming dinov2_block[] = {
    { "norm1", "norm1", "h" }, { "q", "attention.attention.query", "hh" }, { "k", "attention.attention.key", "hh" },
    { "v", "attention.attention.value", "hh" }, { "o", "attention.output.dense", "hh" },
    { "scale1", "layer_scale1.lambda1", "-" }, { "norm2", "norm2", "h" }, { "fc1", "mlp.fc1", "mh" },
    { "fc2", "mlp.fc2", "hm" }, { "scale2", "layer_scale2.lambda1", "-" },
    { NULL, NULL, NULL }
};

const struct family backbone_families[] = {
    { "bert", BACKBONE_BERT, bert_globals, bert_block, false, false, true, false, 0 },
    { "mpnet", BACKBONE_MPNET, bert_globals, mpnet_block, false, false, false, true, 2 },
    { "vit", BACKBONE_VIT, vit_globals, vit_block, true, false, false, false, 0 },
    { "dinov2", BACKBONE_VIT, vit_globals, dinov2_block, true, true, false, false, 0 },
    { NULL, BACKBONE_VIT, NULL, NULL, false, false, false, false, 0 },
};

bool family_has(const struct family *f, const struct naming *n)
{
    if (!strcmp(n->canonical, "embed.type")) return f->has_types;
    return strcmp(n->canonical, "relative_bias") || f->relative;
}

size_t backbone_extent(const struct backbone_config *c, char letter)
{
    switch (letter) {
    case 'h': return c->hidden;
    case 'm': return c->mlp_dim;
    case 'v': return c->vocab_size;
    case 'p': return c->max_positions;
    case 't': return c->type_vocab;
    case 'q': return 1 + c->position_grid * c->position_grid;
    case 'c': return c->channels * c->patch_size * c->patch_size;
    case 'b': return c->relative_buckets;
    case 'a': return c->num_heads;
    default: return 1;
    }
}
