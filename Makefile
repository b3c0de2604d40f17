# The developer loop. CI runs only these targets. `make help` lists them.

SETUP  := tools/setup.sh
BIN    := .venv/bin
PY_DIRS := raida_uring tests tools setup.py

C_SOURCES := $(filter-out %/_native.c %/_loadgen.c,$(wildcard raida_uring/ffi/*/*.c raida_uring/bench/*.c))
C_ALL     := $(C_SOURCES) $(wildcard raida_uring/ffi/*.h raida_uring/ffi/*/*.h raida_uring/bench/*.h \
             tools/bench/*.[ch] tools/journal/*.[ch] tests/native/*.[ch] tests/fault/*.[ch])

comma := ,

# Native tests link the data plane's sources under the sanitizers, without Python.
NATIVE_CC    := $(or $(CC),gcc)
NATIVE_FLAGS := -std=gnu11 -g -O1 -Wall -Wextra -Wswitch-enum -Werror -D_GNU_SOURCE -pthread \
                -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
# -iquote, not -I: the data plane's limits.h must not hide the system's.
NATIVE_INCLUDES := -I. -iquote raida_uring/ffi
NATIVE_DIR   := build/native
LIBRARIES    := -l:liburing.a -llmdb -lcrypto
NATIVE_LIB   := $(patsubst raida_uring/ffi/%.c,$(NATIVE_DIR)/%.o,$(filter raida_uring/ffi/%,$(C_SOURCES)))
NATIVE_TESTS := $(patsubst tests/native/%.c,$(NATIVE_DIR)/%,$(wildcard tests/native/test_*.c))

.DEFAULT_GOAL := build
.PHONY: all setup setup-lint build run test test-announce test-python test-fresh check quick fmt format-check lint types werror tidy \
        quick-format quick-native test-native test-threads test-browser test-refused test-kernel test-systemd setup-fuzz test-fuzz fuzz fault mutations mutations-native crash power-cuts sanitize \
        upgrades starts bench bench-source bench-workers bench-footprint bench-journal bench-journal-failures bench-quick dist test-wheel test-image man docs clean help
# One job at a time: the targets share .venv and the machine's ports. BESIDE runs those together that
# compile, check, or test C programs.
ifndef SIDE_BY_SIDE
.NOTPARALLEL:
endif
BESIDE := $(MAKE) --no-print-directory -j2 --output-sync=target SIDE_BY_SIDE=1

all: fmt build lint test ## format, build, lint, test

setup:
	@$(SETUP)

setup-lint:
	@$(SETUP) --lint

setup-fuzz:
	@$(SETUP) --fuzz

build: setup ## make .venv/bin/raida-uring (default)

run: setup ## serve on 127.0.0.1:50000 with the embedded default configuration
	@exec $(BIN)/raida-uring serve

# The fuzzer runs only where clang is installed: 250 MB that no other target needs.
test: setup test-announce ## all tests, 10 to 20 minutes
	@fuzz=; if $(SETUP) --has-fuzzer; then fuzz=test-fuzz; \
	    else echo 'SKIPPED fuzzers: no clang with libFuzzer (Debian packages clang libclang-rt-dev)'; fi; \
	    $(BESIDE) test-native test-threads $$fuzz
	@$(MAKE) --no-print-directory test-python

test-announce: setup
	@echo "about $$(if $(FEW_LOCKED); then echo 20; else echo 10; fi) minutes on two processors"
	@$(BIN)/python -m tests.support.needs

# Two workers, since most tests wait for a node or a deadline. One where two nodes' rings do not fit
# into a user's locked memory (8 MiB by default), which all of the user's processes share.
FEW_LOCKED := [ "$$(id -u)" != 0 ] && [ "$$(ulimit -l)" != unlimited ] && [ "$$(ulimit -l)" -lt 65536 ]
SPREAD := -n $(or $(WORKERS),$$(if $(FEW_LOCKED); then echo 1; else echo 2; fi)) --dist worksteal

test-python: setup ## the Python tests alone: WORKERS=2
	@set -x; $(BIN)/python -m pytest $(SPREAD)

check: setup-lint setup-fuzz ## what CI runs: format, lint, types, strict C build, then `make test`
	@$(BESIDE) format-check lint types tidy werror
	@$(MAKE) --no-print-directory test

# What starts programs or waits is left to `make test`.
QUICK_UNIT  := $(filter-out $(addprefix tests/unit/test_,bench.py bench_commands.py cli.py cli_config.py cli_ping.py outcomes.py setup.py), \
               $(wildcard tests/unit/test_*.py))
QUICK_TESTS := $(filter-out %/test_base %/test_disk %/test_kill %/test_room %/test_stats %/test_timer,$(NATIVE_TESTS))

quick: setup ## what catches most mistakes within a minute: before each commit
	@$(BESIDE) quick-format lint types quick-native
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -k 'not epoll and not refused' $(QUICK_UNIT) tests/wire/test_vectors.py

quick-format: setup
	@$(BIN)/ruff format --check $(PY_DIRS)

# The data plane is compiled with warnings as errors here, too.
quick-native: setup $(QUICK_TESTS)
	@for test in $(QUICK_TESTS); do "$$test" > $(NATIVE_DIR)/quick.log || { cat $(NATIVE_DIR)/quick.log; exit 1; }; done
	@echo "$(words $(QUICK_TESTS)) native test programs passed"

fmt: setup-lint ## format Python and C
	$(BIN)/ruff format -q $(PY_DIRS)
	$(BIN)/ruff check -q --fix-only $(PY_DIRS)
	@$(if $(C_ALL),clang-format -i $(C_ALL))

format-check: setup-lint
	$(BIN)/ruff format --check $(PY_DIRS)
	@$(if $(C_ALL),clang-format --dry-run -Werror $(C_ALL))
	@echo '$(words $(C_ALL)) C files formatted'

lint: setup ## ruff
	$(BIN)/ruff check $(PY_DIRS)

types: setup ## mypy --strict
	$(BIN)/mypy --strict $(PY_DIRS)

# Builds into a separate directory, so that the modules that tests import stay unchanged.
werror: setup
	@rm -rf build/werror
	RU_WERROR=1 $(BIN)/python setup.py -q build_ext --force --build-lib build/werror/lib --build-temp build/werror/tmp

tidy: setup-lint
	@printf '%s\n' $(filter raida_uring/ffi/%,$(C_SOURCES)) | xargs -P "$$(nproc)" -I{} \
	    clang-tidy --quiet {} -- -std=gnu11 -D_GNU_SOURCE $(NATIVE_INCLUDES)

test-native: setup $(NATIVE_TESTS) $(NATIVE_DIR)/sim ## C tests under the address and undefined-behaviour sanitizers
	@for test in $(NATIVE_TESTS); do echo "$$test"; "$$test" || exit 1; done
	@printf '%s\n' 1 501 | xargs -P 2 -I{} $(NATIVE_DIR)/sim {} 500 1000
	@echo "$(words $(NATIVE_TESTS)) native test programs passed"

# Separate from the other tests: takes a minute and needs a browser (Debian: chromium-headless-shell).
test-browser: setup ## the status page in headless Chromium
	BROWSER_TESTS=1 $(BIN)/python -m pytest tests/browser

# Lock-free structures under the thread sanitizer. -Wno-tsan: gcc 12 warns about fences.
THREAD_TESTS := journal memory queue raida roots seal source stats tally tap tickets trees turns writer
THREAD_FLAGS := $(filter-out -fsanitize=% -fno-sanitize%,$(NATIVE_FLAGS)) -Wno-tsan -fsanitize=thread
THREAD_LIB   := $(addprefix raida_uring/ffi/,engine/page.c memory/arena.c memory/ring.c memory/sleeper.c memory/trees.c \
                wire/body.c wire/fast.c wire/header.c wire/reply.c guard/guard.c guard/raida.c guard/source.c seal/seal.c count/stats.c \
                count/tally.c count/tap.c $(addprefix coins/,crc32c.c defaults.c entry.c journal.c reader.c memory.c pending.c \
                segment.c tickets.c writer.c))

test-threads: setup ## C queue and engine tests under the thread sanitizer
	@mkdir -p $(NATIVE_DIR)
	@for test in $(THREAD_TESTS); do \
	    $(NATIVE_CC) $(THREAD_FLAGS) $(NATIVE_INCLUDES) -o $(NATIVE_DIR)/tsan_$$test \
	        tests/native/test_$$test.c $(THREAD_LIB) -lcrypto && $(NATIVE_DIR)/tsan_$$test || exit 1; done
	@$(NATIVE_CC) $(THREAD_FLAGS) $(NATIVE_INCLUDES) -o $(NATIVE_DIR)/tsan_engine tests/native/test_engine.c \
	    $(filter raida_uring/ffi/%,$(C_SOURCES)) $(RIG_LINK) $(LIBRARIES) && $(NATIVE_DIR)/tsan_engine
	@for test in follow hasher native; do \
	    $(NATIVE_CC) $(THREAD_FLAGS) $(NATIVE_INCLUDES) -o $(NATIVE_DIR)/tsan_$$test tests/native/test_$$test.c \
	        $(filter raida_uring/ffi/%,$(C_SOURCES)) $(LIBRARIES) && $(NATIVE_DIR)/tsan_$$test || exit 1; done

# Arbitrary input under libFuzzer, which needs clang; gcc builds everything else. FUZZER=sealed for one
# of them. Seeds and words are the framing's; the journal's seeds are journals that the code under test
# has written, the other fuzzers begin with zeros.
FUZZ_DIR   := build/fuzz
FUZZERS    := $(or $(FUZZER),framing journal sealed command)
FUZZ_SEEDS  = $(if $(filter framing,$1),tests/native/corpus)$(if $(filter journal,$1),$(FUZZ_DIR)/journal_seeds)
FUZZ_FLAGS := $(NATIVE_FLAGS:-O1=-O2)
FUZZ_LIB   := $(addprefix $(FUZZ_DIR)/,engine/page.o memory/arena.o memory/block.o memory/ring.o \
              memory/sleeper.o count/hist.o count/stats.o seal/seal.o \
              wire/body.o wire/conn.o wire/fast.o wire/header.o wire/reply.o wire/udp.o)
FUZZ_JOURNAL_LIB := $(addprefix $(FUZZ_DIR)/coins/,crc32c.o defaults.o entry.o journal.o reader.o memory.o \
              pending.o segment.o)
FUZZ_COMMAND_LIB := $(patsubst raida_uring/ffi/%.c,$(FUZZ_DIR)/%.o,$(wildcard raida_uring/ffi/commands/*.c raida_uring/ffi/coins/*.c)) \
              $(FUZZ_DIR)/memory/trees.o
FUZZ_RUN    = $(FUZZ_DIR)/$1 -max_len=$(if $(filter journal,$1),1500,600) \
              $(if $(filter framing,$1),-dict=tests/native/framing.dict) -artifact_prefix=$(FUZZ_DIR)/

# Only coverage of the data plane guides the fuzzer, not that of the test's model. Comparisons are
# not traced, which would take two thirds of the time: dictionary and seeds have the constants.
$(FUZZ_DIR)/%.o: raida_uring/ffi/%.c | setup-fuzz
	@mkdir -p $(@D)
	@clang $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -fno-sanitize-coverage=trace-cmp -MMD -MP \
	    $(NATIVE_INCLUDES) -c -o $@ $<

$(FUZZ_DIR)/framing $(FUZZ_DIR)/sealed: $(FUZZ_DIR)/%: tests/native/fuzz_%.c $(FUZZ_LIB) | setup-fuzz
	@clang $(FUZZ_FLAGS) -MMD -MP -MT $@ $(NATIVE_INCLUDES) -c -o $@.main.o $<
	@clang $(FUZZ_FLAGS) -fsanitize=fuzzer -o $@ $@.main.o $(FUZZ_LIB) -lcrypto

$(FUZZ_DIR)/command: tests/native/fuzz_command.c $(FUZZ_LIB) $(FUZZ_COMMAND_LIB) | setup-fuzz
	@clang $(FUZZ_FLAGS) -MMD -MP -MT $@ $(NATIVE_INCLUDES) -c -o $@.main.o $<
	@clang $(FUZZ_FLAGS) -fsanitize=fuzzer -o $@ $@.main.o $(FUZZ_LIB) $(FUZZ_COMMAND_LIB) -llmdb -lcrypto

# Its seeds are journals that the code under test has written.
$(FUZZ_DIR)/journal: tests/native/fuzz_journal.c $(FUZZ_LIB) $(FUZZ_JOURNAL_LIB) | setup-fuzz
	@clang $(FUZZ_FLAGS) -MMD -MP -MT $@ $(NATIVE_INCLUDES) -c -o $@.o $<
	@clang $(FUZZ_FLAGS) -fsanitize=fuzzer -o $@ $@.o $(FUZZ_LIB) $(FUZZ_JOURNAL_LIB) -lcrypto
	@rm -rf $@_seeds && mkdir $@_seeds
	@RU_SEEDS=$@_seeds $@ -runs=0 -verbosity=0 > $@_seeds.log 2>&1 || { cat $@_seeds.log; exit 1; }

# Deterministic: all seeds, then as many inputs derived from them as CI has time for.
FUZZ_BEGIN = mkdir -p $(FUZZ_DIR)/$1 && head -c 200 /dev/zero > $(FUZZ_DIR)/$1/zeros
FUZZ_RUNS  = $(if $(filter journal,$1),$$(($(or $(RUNS),200000) / 10)),$(or $(RUNS),200000))
FUZZ_SHORT = rm -rf $(FUZZ_DIR)/short.$1 && $(call FUZZ_BEGIN,short.$1) && $(call FUZZ_RUN,$1) -seed=1 \
    -runs=$(call FUZZ_RUNS,$1) -verbosity=0 $(FUZZ_DIR)/short.$1 $(call FUZZ_SEEDS,$1) > $(FUZZ_DIR)/log 2>&1 || \
    { cat $(FUZZ_DIR)/log; exit 1; }; echo "$1 fuzzer: $(call FUZZ_RUNS,$1) inputs and no finding";

test-fuzz: $(addprefix $(FUZZ_DIR)/,$(FUZZERS)) ## the fuzzers, short: their seeds, then RUNS=200000 (of the journal's a tenth)
	@$(foreach fuzzer,$(FUZZERS),$(call FUZZ_SHORT,$(fuzzer)))

# New inputs that add coverage stay in build/fuzz/corpus.*, from which the next run continues.
fuzz: $(FUZZ_DIR)/$(or $(FUZZER),framing) ## one fuzzer, long: FUZZER=framing; RUNS=n or TIME=seconds (600), whichever ends first
	@$(call FUZZ_BEGIN,corpus.$(or $(FUZZER),framing))
	$(call FUZZ_RUN,$(or $(FUZZER),framing)) -runs=$(or $(RUNS),-1) \
	    -max_total_time=$(or $(TIME),$(if $(RUNS),0,600)) -print_final_stats=1 \
	    $(FUZZ_DIR)/corpus.$(or $(FUZZER),framing) $(call FUZZ_SEEDS,$(or $(FUZZER),framing))

# Order-only after setup, which may have to install the compiler first.
$(NATIVE_DIR)/%.o: raida_uring/ffi/%.c | setup
	@mkdir -p $(@D)
	@$(NATIVE_CC) $(NATIVE_FLAGS) -MMD -MP $(NATIVE_INCLUDES) -c -o $@ $<

$(NATIVE_DIR)/test_%: tests/native/test_%.c $(NATIVE_LIB) | setup
	@mkdir -p $(@D)
	@$(NATIVE_CC) $(NATIVE_FLAGS) -MMD -MP $(NATIVE_INCLUDES) -o $@ $< $(NATIVE_LIB) $(NATIVE_LINK) $(LIBRARIES)

# So that it can refuse DEFER_TASKRUN, which only Linux 6.0 does by itself.
RIG_LINK := -Wl,--wrap=io_uring_queue_init_params
$(addprefix $(NATIVE_DIR)/test_,backend backend_streams engine): NATIVE_LINK := $(RIG_LINK)

# Files that fail and lose power: tests/native/disk_rig.h.
DISK_LINK := $(addprefix -Wl$(comma)--wrap=,openat pwrite fsync fdatasync renameat2 unlinkat fallocate)
$(NATIVE_DIR)/test_disk: NATIVE_LINK := $(DISK_LINK)
# LMDB as an archive: calls from a shared library cannot be replaced.
$(NATIVE_DIR)/test_base: NATIVE_LINK := $(addprefix -Wl$(comma)--wrap=,pwrite pwritev writev fdatasync) -l:liblmdb.a
$(NATIVE_DIR)/test_room: NATIVE_LINK := $(addprefix -Wl$(comma)--wrap=,pwrite pwritev writev fdatasync fallocate) -l:liblmdb.a

# Whole lives of a node on backend_sim.c, which replaces the backend and these system calls at link
# time; the data plane is unchanged.
SIM_WRAP  := accept4 clock_gettime close getpeername getrandom open sendmsg setsockopt shutdown syscall write
SIM_LINK  := $(addprefix -Wl$(comma)--wrap=,$(SIM_WRAP)) \
             $(foreach backend,uring epoll,-Wl$(comma)--defsym=ru_backend_$(backend)=ru_backend_sim)
SIM_LIB   := $(filter-out $(NATIVE_DIR)/coins/% $(NATIVE_DIR)/commands/% $(addprefix %/,backend_uring.o backend_epoll.o epoll_turn.o message.o \
             probe.o probe_trials.o),$(NATIVE_LIB))
SIM_TESTS := $(wildcard tests/fault/*.[ch])

$(NATIVE_DIR)/sim: $(SIM_TESTS) $(SIM_LIB) | setup
	@$(NATIVE_CC) $(NATIVE_FLAGS) $(NATIVE_INCLUDES) -o $@ $(filter %.c %.o,$^) $(SIM_LINK) -lcrypto

fault: setup $(NATIVE_DIR)/sim ## simulated lives of a node: SEED=n LIVES=n STEPS=n; a seed alone is one life
	@$(NATIVE_DIR)/sim $(or $(SEED),$(shell date +%s)) $(or $(LIVES),$(if $(SEED),1,1000)) $(or $(STEPS),1000)

# Without the sanitizers: the simulation itself must detect each mutation.
mutations: setup ## bugs that the simulation must find
	@tests/fault/mutations.sh 1000 1000 -- $(NATIVE_CC) $(filter-out -fsanitize=% -fno-sanitize%,$(NATIVE_FLAGS)) \
	    $(NATIVE_INCLUDES) $(filter %.c,$(SIM_TESTS)) \
	    $(patsubst $(NATIVE_DIR)/%.o,raida_uring/ffi/%.c,$(SIM_LIB)) $(SIM_LINK) -lcrypto

# Without the sanitizers: the tests' own expectations must detect each mutation.
MUTATED_LIB := $(addprefix raida_uring/ffi/,engine/page.c memory/arena.c memory/ring.c memory/sleeper.c \
               wire/body.c wire/fast.c wire/header.c wire/reply.c count/stats.c \
               $(addprefix coins/,crc32c.c defaults.c entry.c journal.c reader.c memory.c pending.c \
               segment.c writer.c base.c basefile.c baselock.c needs.c survey.c) guard/raida.c) -llmdb

mutations-native: setup ## bugs in the store and its surroundings that the native tests must find: ONLY=name for one
	@ONLY="$(ONLY)" DISK_LINK="$(DISK_LINK)" tests/native/mutations.sh $(NATIVE_CC) \
	    $(filter-out -fsanitize=% -fno-sanitize% -W%,$(NATIVE_FLAGS)) $(NATIVE_INCLUDES) $(MUTATED_LIB)

crash: setup ## kill a node that changes coins, and have its writes fail one by one: KILLS=n SEED=n
	@KILLS=$(or $(KILLS),200) SEED=$(or $(SEED),4) $(BIN)/python -m pytest -q -s \
	    tests/integration/test_crash.py tests/integration/test_failing_disk.py -k survives

power-cuts: setup ## cut the power of a node that changes coins, from recordings of its disk; as root: CUTS=n SEED=n FILE_SYSTEM=xfs
	@FILE_SYSTEM=$(or $(FILE_SYSTEM),ext4) CUTS=$(or $(CUTS),200) SEED=$(or $(SEED),5) $(BIN)/python -m pytest -q -s tests/integration/test_power_cut.py

.SECONDARY: $(NATIVE_LIB) $(SIM_LIB) $(FUZZ_LIB) $(FUZZ_JOURNAL_LIB) $(FUZZ_COMMAND_LIB)
-include $(wildcard $(NATIVE_DIR)/*.d $(NATIVE_DIR)/*/*.d $(FUZZ_DIR)/*.d $(FUZZ_DIR)/*/*.d)

upgrades: setup ## replace a node under load, and kill both at each stage: UPGRADES=n (100), DEADLINES=1 with a node's own
	@UPGRADES=$(or $(UPGRADES),100) $(BIN)/python -m pytest -q -s tests/integration/test_upgrade_load.py \
	    tests/integration/test_upgrade_stages.py -k '$(or $(BACKEND),uring) or test_upgrade_stages'

starts: setup ## start and stop a node on one port: STARTS=n (200)
	@STARTS=$(or $(STARTS),200) $(BIN)/python -m pytest -q tests/integration/test_lifecycle.py -k many_starts

# A separate build, so that the modules in use stay unchanged. 42 minutes on two
# processors with other work, 26 of processor time.
sanitize: setup test-native ## all tests under the address, undefined-behaviour and leak sanitizers
	@set -x; tools/sanitize.sh $(SPREAD)

# The node's choice where a seccomp filter denies io_uring; each of the six takes a few minutes.
test-refused: setup ## the suites with io_uring's system calls refused one by one: CALL=io_uring_setup ERRNO=EPERM for one
	@for call in $(or $(CALL),io_uring_setup io_uring_enter io_uring_register); do \
	    for code in $(or $(ERRNO),EPERM ENOSYS); do \
	        echo "$$call: $$code"; $(BIN)/python -m tests.support.refused $$call $$code -q $(ARGS) || exit 1; done; done

test-kernel: setup $(addprefix $(NATIVE_DIR)/test_,arena backend backend_streams) ## the suites under Debian's stock kernel in QEMU, continued where the last run ended; not in CI: hours
	@tools/test_kernel.sh

test-systemd: setup ## the unit under systemd 252 in a container; not in CI: root, some minutes, CHECKS="names"
	@tools/test_systemd.sh $(CHECKS)

bench: setup ## measure against the smallest C, asyncio and uvloop servers
	$(BIN)/raida-uring bench

bench-source: setup ## what the table of sources costs a datagram, one sender and a million
	@mkdir -p $(NATIVE_DIR)
	@$(NATIVE_CC) $(filter-out -O1 -fsanitize=% -fno-sanitize%,$(NATIVE_FLAGS)) -O2 -fno-strict-aliasing $(NATIVE_INCLUDES) \
	    -o $(NATIVE_DIR)/bench_source tools/bench/source.c raida_uring/ffi/guard/*.c
	@$(NATIVE_DIR)/bench_source

bench-workers: setup ## what a second native worker adds, without network: ROUNDS=n (9) MS=n (500) COINS=n (2000)
	@mkdir -p $(NATIVE_DIR)
	@$(NATIVE_CC) $(filter-out -O1 -fsanitize=% -fno-sanitize%,$(NATIVE_FLAGS)) -O2 -fno-strict-aliasing $(NATIVE_INCLUDES) \
	    -o $(NATIVE_DIR)/bench_workers tools/bench/workers.c $(filter raida_uring/ffi/%,$(C_SOURCES)) $(LIBRARIES)
	@$(NATIVE_DIR)/bench_workers $(or $(ROUNDS),9) $(or $(MS),500) $(or $(COINS),2000)

# Without setup: it needs neither Python nor the data plane, but a library that no other target needs.
JOURNAL_DIR := build/journal
$(JOURNAL_DIR)/contenders: $(wildcard tools/journal/*.[ch])
	@for library in lmdb sqlite3; do pkg-config --exists $$library || \
	    { echo "bench-journal: needs the headers of $$library (Debian package lib$$library-dev)"; exit 1; }; done
	@mkdir -p $(@D)
	@$(NATIVE_CC) -std=gnu11 -g -O2 -Wall -Wextra -Wswitch-enum -Werror -D_GNU_SOURCE -pthread -o $@ \
	    $(filter %.c,$^) -llmdb -lsqlite3

bench-footprint: setup ## starts, memory, and lone changes beside a checkpoint of all pages: STARTS=n (7)
	@PYTHONPATH=. $(BIN)/python tools/bench/footprint.py $(STARTS)

bench-journal: $(JOURNAL_DIR)/contenders ## a journal of our own beside tables of LMDB and SQLite: ROUNDS=n (11) COMMITS=n (1024) DIR=where
	@mkdir -p $(JOURNAL_DIR)
	@room=$$(mktemp -d -p $(or $(DIR),$(JOURNAL_DIR))) && trap "rm -rf $$room" EXIT && \
	    $< measure $$room $(or $(ROUNDS),11) $(or $(COMMITS),1024)

bench-journal-failures: $(JOURNAL_DIR)/contenders ## what they do on full and failing disks and after damage; as root
	@tools/journal/failures.sh $<

bench-quick: setup ## the same, shorter and less steady
	$(BIN)/raida-uring bench --quick

dist: setup ## source archive and wheel in dist/
	@tools/dist.sh

# Needs root and debootstrap. PYTHONS=... adds Pythons by their prefixes.
test-wheel: dist ## the wheel on a minimal Debian 12 without compiler and libraries
	@tools/test_wheel.sh $(PYTHONS)

# Needs root and debootstrap. CASES="trixie.user.disk.ipv6" runs one case of tools/test_fresh.sh.
test-fresh: ## the README's commands on bare Debian 12 and 13, in chroots; an hour
	@nice tools/test_fresh.sh $(CASES)

test-image: dist ## the Containerfile by podman, or its steps without an engine, and a node from it; as root, with debootstrap
	@tools/container/test_image.sh

man: setup ## docs/raida-uring.1, from the command line's own tree
	$(BIN)/python tools/manpage.py

docs: setup ## what follows from the code: tables in docs/ of settings, counters, metrics and log events, the sample configuration
	$(BIN)/python tools/tables.py

clean: ## remove everything that the targets made
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find raida_uring tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
	find raida_uring \( -name '*.so' -o -name '*.o' -o -name _native.c -o -name _loadgen.c \) -delete

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14
