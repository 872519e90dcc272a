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
