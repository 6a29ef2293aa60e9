// A wall clock of its own for a process that this is preloaded into: the machine's, ahead by as many nanoseconds as the first
// eight bytes of the file say that SAOLA_CLOCK names. The monotonic clock stays the machine's, by which programs wait.
// It takes no memory: the allocator of the daemon asks for the time while it makes itself ready.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead_ns;
static int (*next)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SAOLA_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *page = mmap(NULL, sizeof *ahead_ns, PROT_READ, MAP_SHARED, file, 0);
        close(file);
        ahead_ns = page == MAP_FAILED ? NULL : page;
    }
    next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int failed = next ? next(clock, time) : (int)syscall(SYS_clock_gettime, clock, time);
    if (!failed && clock == CLOCK_REALTIME && ahead_ns) {
        int64_t ns = (int64_t)time->tv_sec * 1000000000 + time->tv_nsec + *ahead_ns;
        time->tv_sec = ns / 1000000000;
        time->tv_nsec = ns % 1000000000;
    }
    return failed;
}
