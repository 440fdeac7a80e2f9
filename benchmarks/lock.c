/* Counts what threads compute while they don't hold Python's lock: preloaded, it stands before the two functions by
 * which extension modules let go of the lock and take it again. See lock_held.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static long long outside;                    /* nanoseconds of CPU time, of all threads */
static _Thread_local long long released;     /* the thread's own CPU time when it let go */

static long long used(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

void *PyEval_SaveThread(void) {
  static void *(*original)(void);
  if (!original) original = (void *(*)(void))dlsym(RTLD_NEXT, "PyEval_SaveThread");
  void *state = original();
  released = used();
  return state;
}

void PyEval_RestoreThread(void *state) {
  static void (*original)(void *);
  if (!original) original = (void (*)(void *))dlsym(RTLD_NEXT, "PyEval_RestoreThread");
  __atomic_fetch_add(&outside, used() - released, __ATOMIC_RELAXED);
  original(state);
}

long long outside_the_lock(void) { return __atomic_load_n(&outside, __ATOMIC_RELAXED); }
