/* The models and data that the runs of tests/runs.sh read, into the folder named. */
#include "tests/support/tiny_models.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    char line[256] = "";
    if (argc != 2) return 2;
    if (!tiny_inputs_write(argv[1], (struct reason){ line, sizeof line })) return 0;
    fprintf(stderr, "models: %s\n", line);
    return 1;
}
