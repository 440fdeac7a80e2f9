/* For LD_PRELOAD: a file system without locks, as Lustre is when it is mounted without flock. */
#include <errno.h>

int flock(int descriptor, int operation) {
    (void)descriptor, (void)operation;
    errno = ENOSYS;
    return -1;
}
