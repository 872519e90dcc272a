/* How much memory a program took, for `make reproduce`. */
#ifndef CLI_USAGE_H
#define CLI_USAGE_H

/* When the environment has PREFIX_NTK_USAGE=FILE, writes the largest resident size of the program and of its children,
 * in bytes, into FILE as the program exits. */
void usage_at_exit(void);

#endif
