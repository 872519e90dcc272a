#include "cli/adapter_convert.h"
#include "cli/folder.h"

#include <gsl/gsl_errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "prefix_ntk/feature.h"
#include "transformer/adapter_files.h"
#include "transformer/train.h"

static const char columns[] = "feature,params,val_accuracy,val_loss,test_accuracy,test_loss,chosen";
enum { BATCH = 32, MAX_FEATURES = 64, NO_CHOICE = -1 };

/* The task, the trained prefix, and the summary under way. */
struct conversion {
    const struct cli_common *cfg;
    const struct adapter_convert *job;
    struct adapter_description prefix;
    struct backbone *backbone;
    struct task *task;
    struct inputs *inputs;
    struct model *from;
};

/* status: of the validation set, test_status: of the test set; GSL_EDOM: some normaliser D is not positive. */
struct outcome { struct evaluation validation, test; size_t params; int status, test_status; };

static int bad(const struct cli_common *cfg, int status, const char *what, const char *line)
{
    return cli_fail(cfg, cli_input_code(status), "%s%s%s", what, *what ? ": " : "", line);
}

static int open_all(struct conversion *c)
{
    const struct task_options to = { .validation_size = 1000, .seed = c->cfg->seed };
    const struct inputs_options io = { 0, 0 };
    char line[512];
    const struct reason why = { line, sizeof line };
    int status = adapter_files_read(c->job->adapter, &c->prefix, why);
    if (status) return bad(c->cfg, status, c->job->adapter, line);
    if (c->prefix.options.method != ADAPTER_PTUNING)
        return cli_fail(c->cfg, EXIT_DATA, "%s: not a prefix (PREFIX_TUNING)", c->job->adapter);
    if ((status = backbone_open(c->job->backbone, &c->backbone, why)))
        return bad(c->cfg, status, c->job->backbone, line);
    if ((status = task_open(c->job->task, &to, &c->task, why))) return bad(c->cfg, status, "", line);
    if (c->prefix.num_classes && c->prefix.num_classes != c->task->num_classes)
        return cli_fail(c->cfg, EXIT_DATA, "%s: made for %zu classes, the task has %zu", c->job->adapter,
                        c->prefix.num_classes, c->task->num_classes);
    if ((status = inputs_alloc(c->backbone, c->task, &io, &c->inputs, why))) return bad(c->cfg, status, "", line);
    status = model_alloc(c->backbone, &c->prefix.options, c->task->num_classes, c->prefix.pool, 0, c->cfg->seed,
                         &c->from, why);
    if (!status) status = adapter_files_load(c->job->adapter, c->from, why);
    return status ? bad(c->cfg, status, c->job->adapter, line) : 0;
}

static int reserve(const struct conversion *c, struct model *model)
{
    return model_reserve(model, inputs_max_rows(c->inputs, BATCH), BATCH, inputs_max_len(c->inputs), 0,
                         c->cfg->threads);
}

static void evaluate(const struct conversion *c, struct model *model, enum task_split split, struct outcome *out)
{
    out->params = model_trainable(model, PARAM_ADAPTER);
    if (split == TASK_TEST) out->test_status = train_evaluate(model, c->inputs, split, BATCH, &out->test, NULL, NULL);
    else out->status = train_evaluate(model, c->inputs, split, BATCH, &out->validation, NULL, NULL);
}

static void write_row(struct table *t, const char *feature, const struct outcome *o, int tested, int chosen)
{
    table_text(t, feature);
    table_int(t, o->params);
    table_num(t, o->status ? NAN : o->validation.accuracy);
    table_num(t, o->status ? NAN : o->validation.loss);
    table_num(t, tested && !o->test_status ? o->test.accuracy : NAN);
    table_num(t, tested && !o->test_status ? o->test.loss : NAN);
    table_int(t, (uint64_t)chosen);
    table_end_row(t);
}

static int convert(struct conversion *c)
{
    const struct adapter_convert *job = c->job;
    struct outcome prefix = { .status = 0 }, maps[MAX_FEATURES] = { { .status = 0 } };
    struct model *model = NULL;
    char line[512] = "";
    const struct reason why = { line, sizeof line };
    int best = NO_CHOICE, status = reserve(c, c->from), code = 0;
    if (!status) evaluate(c, c->from, TASK_VALIDATION, &prefix);
    if (!status && !(status = prefix.status)) evaluate(c, c->from, TASK_TEST, &prefix);
    if (status || (status = prefix.status) || (status = prefix.test_status))
        return cli_status(c->cfg, status, "the prefix");
    for (size_t f = 0; f < job->num_features && f < MAX_FEATURES; f++) {
        if ((status = model_fold_prefix(c->from, job->features[f], &model, why))) break;
        if (!(status = reserve(c, model))) evaluate(c, model, TASK_VALIDATION, &maps[f]);
        /* A normaliser that is not positive is an answer. */
        if (maps[f].status && maps[f].status != GSL_EDOM) status = maps[f].status;
        const struct evaluation *v = &maps[f].validation, *b = best < 0 ? NULL : &maps[best].validation;
        if (!maps[f].status && (!b || v->accuracy > b->accuracy || (v->accuracy >= b->accuracy && v->loss < b->loss)))
            best = (int)f;
        model_free(model);
        model = NULL;
        if (status) break;
    }
    if (!status && best >= 0) {
        status = model_fold_prefix(c->from, job->features[best], &model, why);
        if (!status) status = reserve(c, model);
        if (!status) evaluate(c, model, TASK_TEST, &maps[best]);
        if (!status && maps[best].test_status != GSL_EDOM) status = maps[best].test_status;
        if (!status && !maps[best].test_status && job->out)
            status = adapter_files_write(job->out, model, c->prefix.pool, (const char *const *)c->task->class_names,
                                         why);
    }
    if (status)
        code = *line ? cli_fail(c->cfg, status == GSL_EINVAL ? EXIT_DATA : EXIT_FAILED, "%s", line)
            : cli_status(c->cfg, status, "the summary");
    model_free(model);
    if (code) return code;
    if (best < 0) cli_warn(c->cfg, "no map keeps the normaliser D positive on the validation set: keep the prefix");
    struct table *t = table_open(c->cfg, NULL, columns);
    if (!t) return EXIT_FAILED;
    table_note(t, "adapter=%s backbone=%s task=%s; row prefix: the adapter itself; an empty cell: D <= 0, or not "
                  "tested", job->adapter, job->backbone, job->task);
    write_row(t, "prefix", &prefix, 1, 0);
    for (size_t f = 0; f < job->num_features && f < MAX_FEATURES; f++)
        write_row(t, job->features[f], &maps[f], (int)f == best, (int)f == best);
    code = table_close(t, EXIT_DONE);
    if (!code && best >= 0 && maps[best].test_status)
        code = cli_fail(c->cfg, EXIT_FAILED,
                        "%s: a normaliser D is not positive on the test set; nothing is written: keep the prefix",
                        job->features[best]);
    return code;
}

int adapter_convert_run(const struct cli_common *cfg, const struct adapter_convert *job)
{
    struct conversion c = { .cfg = cfg, .job = job };
    struct folder folder = { .path = NULL };
    int code = job->out ? folder_check(cfg, job->out) : EXIT_DONE;
    if (!code) code = open_all(&c);
    if (!code && job->out) code = folder_open(cfg, job->out, &folder);
    if (!code) {
        cli_outputs_begin(cfg);
        code = cli_outputs_end(cfg, convert(&c));
    }
    folder_close(&folder, code);
    model_free(c.from);
    inputs_free(c.inputs);
    task_free(c.task);
    backbone_free(c.backbone);
    adapter_description_free(&c.prefix);
    return code;
}
