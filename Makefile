# prefix-ntk: build, test, reproduce. `make help` lists the targets.
#
# PROFILE=default|smoke|full   which numbers `make reproduce` runs (experiments/PROFILE.mk)
# SAN=address|thread           a sanitizer build, in a folder of its own
# BUILD=DIR                    where everything generated goes (default: build)

PROFILE ?= default
SEED    ?= 20240614
SAN     ?=
BUILD   ?= build$(if $(SAN),/san-$(SAN))
PREFIX  ?= /usr/local

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:
SHELL := /bin/bash

export LC_ALL := C
# One BLAS thread inside our own threads, and the core type OpenBLAS itself finds.
export OPENBLAS_NUM_THREADS := 1
unexport OPENBLAS_CORETYPE
export PREFIX_NTK_COMMIT := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)

CC      ?= gcc
ARCH    := $(shell $(CC) -dumpmachine 2>/dev/null | cut -d- -f1)
ISAS    := portable $(if $(filter x86_64,$(ARCH)),avx2 avx512)

PKGS     := gsl openblas sleef
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --define-variable=GSL_CBLAS_LIB= --libs $(PKGS) 2>/dev/null) -lm

WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
CFLAGS  ?= -O2 -g
BASE    := -fopenmp -fPIC -fvisibility=hidden -D_GNU_SOURCE -Iinclude -I. $(PKG_CFLAGS) $(WARN)
# Results must not depend on what the compiler contracts, except in the kernels.
STRICT  := -std=c11 -ffp-contract=off $(BASE)
# Kernel files need GNU mode and contraction, or GCC emits no fused multiply-add.
KERNEL  := -std=gnu11 -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math $(BASE)
ISA_portable := -DISA=portable -DISA_PORTABLE=1
ISA_avx2     := -DISA=avx2 -DISA_AVX2=1 -mavx2 -mfma -mprefer-vector-width=256
ISA_avx512   := -DISA=avx512 -DISA_AVX512=1 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512

ifeq ($(SAN),address)
  SANFLAGS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
else ifeq ($(SAN),thread)
  SANFLAGS := -fsanitize=thread -fno-omit-frame-pointer
endif
LDFLAGS += -fopenmp $(SANFLAGS)

O := $(BUILD)/obj
# A file named *_kernel.c is compiled once per instruction set, every other file once.
plain  = $(patsubst %.c,$(O)/%.o,$(filter-out %_kernel.c,$(wildcard $(1)/*.c)))
kernel = $(foreach i,$(ISAS),$(patsubst %.c,$(O)/%.$(i).o,$(wildcard $(1)/*_kernel.c)))

LIB_OBJS := $(foreach d,common theory attention,$(call plain,$(d)) $(call kernel,$(d)))
CLI_OBJS := $(call plain,experiments/cli) $(call plain,data)
SUP_OBJS := $(call plain,tests/support)

EXPERIMENTS := $(patsubst experiments/%.c,%,$(wildcard experiments/*.c))
TOOLS       := $(patsubst tools/%.c,%,$(wildcard tools/*.c))
PROGRAMS    := $(addprefix $(BUILD)/bin/,$(EXPERIMENTS) $(TOOLS))
TESTS       := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))

INTERNAL := $(BUILD)/lib/libinternal.a
CLI      := $(BUILD)/lib/libcli.a
SUPPORT  := $(BUILD)/lib/libsupport.a

.PHONY: all
all: $(PROGRAMS) $(BUILD)/lib/libprefix_ntk.a $(BUILD)/lib/libprefix_ntk.so ## build every program and the library


# How objects, libraries, programs and tests are made.

$(O)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(STRICT) $(CFLAGS) $(SANFLAGS) -MMD -MP -c $< -o $@

define kernel_rule
$(O)/%_kernel.$(1).o: %_kernel.c
	@mkdir -p $$(@D)
	$(CC) $(KERNEL) $(ISA_$(1)) -g $(SANFLAGS) -MMD -MP -c $$< -o $$@
endef
$(foreach i,$(ISAS),$(eval $(call kernel_rule,$(i))))

# The archive programs and tests of this tree link: every symbol visible.
$(INTERNAL): $(LIB_OBJS)
$(CLI): $(CLI_OBJS)
$(SUPPORT): $(SUP_OBJS)
$(INTERNAL) $(CLI) $(SUPPORT):
	@mkdir -p $(@D)
	rm -f $@ && ar rcs $@ $^

# The archive and the shared object others link: only the public symbols.
$(BUILD)/lib/libprefix_ntk.a: $(LIB_OBJS)
	@mkdir -p $(@D)
	ld -r -o $(BUILD)/lib/prefix_ntk.o $^
	objcopy --localize-hidden $(BUILD)/lib/prefix_ntk.o
	rm -f $@ && ar rcs $@ $(BUILD)/lib/prefix_ntk.o && rm -f $(BUILD)/lib/prefix_ntk.o

$(BUILD)/lib/libprefix_ntk.so: $(LIB_OBJS)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -shared -Wl,-soname,libprefix_ntk.so.0 -Wl,--no-undefined -o $@ $^ $(PKG_LIBS)

$(BUILD)/bin/%: $(O)/experiments/%.o $(CLI) $(INTERNAL)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ -ljansson $(PKG_LIBS)
$(BUILD)/bin/%: $(O)/tools/%.o $(CLI) $(INTERNAL)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ -ljansson $(PKG_LIBS)
$(BUILD)/tests/%: $(O)/tests/%.o $(SUPPORT) $(CLI) $(INTERNAL)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ -lcmocka -ljansson $(PKG_LIBS)

-include $(shell find $(O) -name '*.d' 2>/dev/null)
