/* A section for each reader: what the part that concerns them says, claim by claim. */
#include "report/page.h"

#include <string.h>

struct reader { const char *id, *title, *text, *claims; };

static const struct reader readers[] = {
    { "for-theory", "For the theory reader",
      "The one-layer model of a prefix: its kernel and the limit, what training does, and where the conditions of the "
      "proofs "
      "are loose or a statement fails. Derivations are in the [appendix](#appendix).",
      "T2 T4 T7 T9 T12 T13 T14 F1 F3 F23 F26" },
    { "for-practice", "For the practitioner",
      "Whether NTK-Attention can stand in for a prefix, with which map, what it costs and saves, and how it compares "
      "once "
      "fine-tuned. `prefix_to_summary` chooses a map for your own prefix and queries and says what it loses; "
      "`finetune` trains "
      "all methods compared here.",
      "M1 M6 E2 E3 E4 E5 F64 F67 F68 F69 F71" },
    { "for-kernels", "For the kernel engineer",
      "Time and memory against the lengths, and the share of the machine's peak. `make bench` times the kernels on "
      "your machine, "
      "`make bench-peers` beside PyTorch, ONNX Runtime, OpenVINO and JAX.",
      "M4 M5 F40" },
    { "for-review", "For the reviewer",
      "How the claims are read and what they are compared with, which numbers are missing and where the rest come "
      "from. "
      "`make compare` holds a second machine's results against these.",
      "E1 M3 M7 M8 E6" },
};

static void put_reader(const struct page *p, const struct reader *r)
{
    char claims[128];
    fprintf(p->out, "## %s {#%s}\n\n%s\n\n", r->title, r->id, r->text);
    snprintf(claims, sizeof claims, "%s", r->claims);
    bool any = false;
    for (char *id = strtok(claims, " "); id; id = strtok(NULL, " ")) {
        const struct ledger_entry *e = ledger_entry(p->ledger, id);
        if (!e) continue;
        if (!any) fputs("::: {.rows .headlines}\n| claim |   | verdict |\n|:--|:--|:--|\n", p->out);
        any = true;
        fputs("| ", p->out);
        put_claim_link(p, id);
        fprintf(p->out, " | %s | ", e->title);
        put_headline(p, e);
        fputs(" |\n", p->out);
    }
    if (any) fputs(":::\n\n", p->out);
}

void put_readers(const struct page *p)
{
    fputs("# Where to read on {#readers}\n\n", p->out);
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) put_reader(p, &readers[i]);
    fputs("[What is missing](#missing), [where the numbers come from](#provenance), [every verdict](#rows).\n\n",
          p->out);
}
