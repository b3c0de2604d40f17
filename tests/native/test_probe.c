/* test_probe.c: the probe's trials leave nothing behind, on whatever kernel this is. */
#include <dirent.h>

#include "native.h"
#include "ru.h"

enum {
    TRIALS_MAX = 64
};

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (!directory)
        abort();
    while (readdir(directory))
        count++;
    (void)closedir(directory);
    return count;
}

static void test_every_trial_has_a_name_and_a_result(void)
{
    int32_t results[TRIALS_MAX];
    uint32_t count = ru_probe_count();
    EXPECT(count > 0 && count <= TRIALS_MAX);
    for (uint32_t i = 0; i < count; i++)
        results[i] = INT32_MAX;
    EXPECT_EQUAL(ru_probe_run(results), 0);
    for (uint32_t i = 0; i < count; i++) {
        EXPECT(results[i] <= RU_PROBE_UNTRIED);
        EXPECT(ru_probe_name(i) != NULL);
    }
    EXPECT(ru_probe_name(count) == NULL);
}

static void test_descriptors_are_closed(void)
{
    int32_t results[TRIALS_MAX];
    struct ru_probe_backend report;
    struct ru_config config = native_config();
    config.tcp_buffers = 16;
    unsigned before = open_descriptors();
    EXPECT_EQUAL(ru_probe_run(results), 0);
    config.events_per_lap = 16;
    for (config.backend = RU_BACKEND_AUTO; config.backend <= RU_BACKEND_EPOLL; config.backend++) {
        int result = ru_probe_backend(&config, &report);
        EXPECT((result == 0) == (report.tier[0] != '\0'));
        EXPECT((result != 0) == (report.fault[0] != '\0'));
        EXPECT((report.refusal_error != 0) == (report.refusal[0] != '\0'));
        EXPECT(config.backend != RU_BACKEND_EPOLL || (result == 0 && report.refusal_error == 0));
    }
    EXPECT_EQUAL(open_descriptors(), before);
}

int main(void)
{
    RUN(test_every_trial_has_a_name_and_a_result);
    RUN(test_descriptors_are_closed);
    return native_finish();
}
