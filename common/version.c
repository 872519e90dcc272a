#include "prefix_ntk/version.h"

const char *prefix_ntk_version(void) { return PREFIX_NTK_VERSION; }
