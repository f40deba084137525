/* Preloaded into the processes of a run: the wall clock goes by what $CHAOS/clock says, in seconds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, at);
    const char *folder = getenv("CHAOS");
    char path[4096];
    long seconds = 0;
    if (done == 0 && id == CLOCK_REALTIME && folder) {
        snprintf(path, sizeof path, "%s/clock", folder);
        FILE *file = fopen(path, "r");
        if (file) {
            if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
            fclose(file);
        }
        at->tv_sec += seconds;
    }
    return done;
}
