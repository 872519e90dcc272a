/* Instruction sets, threads, memory: what the machine offers. */
#include "common/isa.h"
#include "common/threads.h"
#include "tests/support/check.h"

#include <gsl/gsl_errno.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_forcing(void **state)
{
    (void)state;
    const enum isa found = isa_current();
    assert_true(isa_available(found) && isa_available(ISA_ID_PORTABLE));
    for (int isa = ISA_ID_PORTABLE; isa <= ISA_ID_NEON; isa++) {
        const int status = isa_force((enum isa)isa);
        assert_int_equal(status, isa_available((enum isa)isa) ? GSL_SUCCESS : GSL_EUNSUP);
        if (!status) assert_int_equal(isa_current(), isa);
    }
    assert_int_equal(isa_force((enum isa)99), GSL_EUNSUP);
    assert_int_equal(isa_force(found), GSL_SUCCESS);
    assert_string_equal(isa_name(ISA_ID_AVX512), "avx512");
}

static void test_environment(void **state)
{
    (void)state;
    static const struct { const char *value; int status; } cases[] = {
        { "portable", GSL_SUCCESS }, { "sse", GSL_EINVAL }, { "", GSL_EINVAL },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv("PREFIX_NTK_ISA", cases[i].value, 1);
        assert_int_equal(isa_environment_status(), cases[i].status);
    }
    unsetenv("PREFIX_NTK_ISA");
    assert_int_equal(isa_environment_status(), GSL_SUCCESS);
}

static void test_threads(void **state)
{
    (void)state;
    assert_int_equal(threads_setup(3), 3);
    assert_int_equal(omp_get_max_threads(), 3);
    assert_true(threads_setup(0) >= 1);
    assert_int_equal(strncmp(threads_blas_config(), "OpenBLAS", 8), 0);
    assert_true(*threads_blas_core());
}

static void test_memory(void **state)
{
    (void)state;
    const size_t all = memory_available();
    assert_true(all > (size_t)1 << 26 && all < (size_t)1 << 50);
    if (fork() == 0) {
        const struct rlimit limit = { (rlim_t)1 << 36, (rlim_t)1 << 36 };
        const int set = setrlimit(RLIMIT_AS, &limit);
        _exit(set || memory_available() <= (size_t)limit.rlim_cur ? 0 : 1);
    }
    int status;
    wait(&status);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forcing),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
