/*
 * The bugs that the NVMe miniport may be built with: -DBUG=BUG_RELEASE_TWICE and so on. Without it, none. zoo.toml says
 * of each what it is like and what has to be found.
 *
 * Each is reached a few times in a run of the workload, never on every request. Where the guest cannot go on, that is
 * said: the lock is then taken for ever.
 */
#ifndef BUG_H
#define BUG_H

#include "built_with.h"

#define BUG_RELEASE_WITHOUT_ACQUIRE 1 /* a flush releases a lock that it no longer acquires */
#define BUG_RELEASE_TWICE 2           /* an unmap releases its inner lock twice */
#define BUG_RELEASE_ON_ERROR_PATH 3   /* a failed command jumps to a release of what it never acquired */
#define BUG_RELEASE_OTHER_LOCK 4      /* an unmap releases a lock that it does not hold beside the one that it does */
#define BUG_RELEASE_WRONG_ROUTINE 5   /* a flush releases by the routine of another kind of lock */
#define BUG_RETURN_WITH_LOCK 6        /* a write that the medium refuses leaves the errors' lock held */
#define BUG_FLUSH_AGAIN_UNDER_LOCK 7  /* a queue's DPC takes its lock again for a flush: the guest hangs */
#define BUG_DPC_LOCK_UNDER_INTERRUPT_LOCK 8 /* a flush takes a DPC lock while it holds the interrupt lock */
#define BUG_MESSAGE_LOCK_IN_INTERRUPT 9     /* an interrupt routine takes its message's lock: the guest hangs */
#define BUG_RELEASE_OF_REFUSED_MESSAGE 10   /* a flush takes the lock of a message that there is not, and releases it */
#define BUG_RELEASE_AFTER_RESET 11          /* a reset of the controller releases a queue's lock once more */
#define BUG_ZEROED_HANDLE_FOR_SERIAL 12     /* the serial number's answer releases by a zeroed handle */
#define BUG_RELEASE_OTHER_MESSAGE 13        /* a flush takes one message's lock and releases the next one's */
#define BUG_START_IO_LOCK_IN_START_IO 14    /* HwStartIo takes the StartIo lock for a flush: the guest hangs */
#define BUG_RELEASE_COPIED_HANDLE 15        /* an unmap hands its lock handle on by value */
#define BUG_INTERRUPT_LOCK_IN_INTERRUPT 16  /* an interrupt routine takes all messages' locks: the guest hangs */
#define BUG_START_IO_LOCK_IN_TIMER 17       /* the timer takes the StartIo lock after a flush: the guest hangs */
#define BUG_INTERRUPT_LOCK_IN_STOP 18       /* the stop takes the lock that is held around it: the guest hangs */
#define BUG_RETURN_FROM_CONTROL_WITH_LOCK 19 /* a query at PASSIVE_LEVEL leaves a lock held: the guest cannot go on */
#define BUG_FOUND_WITH_LOCK 20               /* HwFindAdapter leaves a lock held: the guest cannot go on */
#define BUG_POLL_WITH_LOCK 21                /* the passive initialization waits under a lock for what does not come */
#define BUG_MESSAGE_LOCK_WITHOUT_MODE 22     /* messages' locks are taken, but were not asked for */

#endif
