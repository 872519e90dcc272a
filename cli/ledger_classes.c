#include "cli/ledger_classes.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char *const class_names[NUM_ROW_CLASSES] = { "preregistered", "exact", "exploratory" };

const char *row_class_name(enum row_class class)
{
    return class_names[class];
}

static const char blanks[] = " \t\n";

/* The row whose name is the n characters at `name`, NULL when there is none. */
static struct ledger_row *row_of(struct ledger *l, const struct ledger_entry *e, const char *name, size_t n)
{
    for (size_t i = e->first_row; i < e->first_row + e->num_rows; i++)
        if (strlen(l->rows[i].row) == n && !strncmp(l->rows[i].row, name, n)) return &l->rows[i];
    return NULL;
}

/* "exact", "exploratory" or "same as F30 exponent" at *text, which moves behind it; *other is the row of the last. */
static int take_kind(struct ledger *l, const char **text, enum row_class *class, const struct ledger_row **other,
                     char *why, size_t size)
{
    static const char same[] = "same as ";
    *other = NULL;
    for (size_t k = ROW_EXACT; k < NUM_ROW_CLASSES; k++) {
        const size_t n = strlen(class_names[k]);
        if (strncmp(*text, class_names[k], n)) continue;
        *class = (enum row_class)k;
        *text += n;
        return 0;
    }
    char claim[16], row[128];
    int length = 0;
    if (strncmp(*text, same, sizeof same - 1) ||
        sscanf(*text + sizeof same - 1, "%15[A-Z0-9] %127[A-Za-z0-9_.-]%n", claim, row, &length) < 2) {
        snprintf(why, size, "\"%.24s\" is neither exact, exploratory nor same as ID ROW", *text);
        return -1;
    }
    *text += (int)sizeof same - 1 + length;
    *other = ledger_find(l, claim, row);
    if (!*other) snprintf(why, size, "there is no row %s of %s", row, claim);
    return *other ? 0 : -1;
}

/* The names in backticks of one clause; *text moves to what ends it. */
static int take_rows(struct ledger *l, const struct ledger_entry *e, const char **text, enum row_class class,
                     const struct ledger_row *other, char *why, size_t size)
{
    do {
        *text += **text == ',';
        *text += strspn(*text, blanks);
        const size_t n = **text == '`' ? strcspn(*text + 1, "`\n") : 0;
        struct ledger_row *r = n ? row_of(l, e, *text + 1, n) : NULL;
        if (!r || r == other) {
            snprintf(why, size, "\"%.24s\" does not begin with the name of a row in backticks", *text);
            return -1;
        }
        if (other) {
            r->same_claim = other->claim;
            r->same_row = other->row;
        } else {
            r->class = class;
        }
        *text += n + 2;
    } while (**text == ',');
    return 0;
}

int ledger_classes_read(struct ledger *l, const struct ledger_entry *e, char *why, size_t size)
{
    static const char mark[] = "\n**Class.**";
    const char *text = strstr(e->text, mark);
    if (!text) return 0;
    text += sizeof mark - 1;
    for (bool more = true; more;) {
        enum row_class class = ROW_PREREGISTERED;
        const struct ledger_row *other;
        text += strspn(text, blanks);
        if (take_kind(l, &text, &class, &other, why, size)) return -1;
        text += strspn(text, blanks);
        if (*text == '(') text += strcspn(text, ")");
        text += *text == ')';
        if (*text != ':') {
            snprintf(why, size, "a colon is missing before \"%.24s\"", text);
            return -1;
        }
        text++;
        if (take_rows(l, e, &text, class, other, why, size)) return -1;
        more = *text++ == ';';
    }
    if (text[-1] == '.') return 0;
    snprintf(why, size, "a clause ends with neither a semicolon nor a period");
    return -1;
}
