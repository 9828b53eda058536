/*
 * The bugs that the virtual miniport may be built with: -DBUG=BUG_RELEASE_TWICE and so on. Without it, none. zoo.toml
 * says of each what it is like and what has to be found.
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
#define BUG_RETURN_WITH_LOCK 6        /* an early return of an unmap leaves the inner lock held */
#define BUG_LOWER_WITH_LOCK 7         /* a flush lowers the IRQL by hand where it should release */
#define BUG_ACQUIRE_TWICE 8           /* a flush acquires what it holds: the guest hangs */
#define BUG_ACQUIRE_TWICE_BY_HELPER 9 /* so does a helper that is called twice at DISPATCH_LEVEL: the guest hangs */
#define BUG_RELEASE_TO_DISPATCH_LEVEL 10 /* a flush releases to the IRQL of another time */
#define BUG_AT_DPC_LEVEL_IN_THREAD 11    /* a flush takes a lock by the routine for DISPATCH_LEVEL */
#define BUG_LOCK_COPIED_TO_STACK 12      /* a flush locks a copy of the lock, which protects nothing */
#define BUG_INITIALIZE_HELD_LOCK 13      /* a flush initialises a lock again that it holds */
#define BUG_ORDER_INVERTED 14          /* an unmap and a flush take two locks in opposite orders, one after the other */
#define BUG_QUEUED_HANDLE_COPIED 15    /* a flush releases a queued lock by a copy of the handle */
#define BUG_QUEUED_RELEASE_OF_PLAIN 16 /* a flush takes a lock as a plain one and releases it as a queued one */
#define BUG_PLAIN_RELEASE_OF_QUEUED 17 /* and the other way round */
#define BUG_QUEUED_RELEASED_TWICE 18   /* an error path releases a queued lock that was released already */
#define BUG_TRY_NOT_LOOKED_AT 19       /* a flush releases what it did not get from a Try routine */
#define BUG_CANCEL_LOCK_TWICE 20       /* a flush releases the cancel spin lock twice */
#define BUG_HANDED_TO_DPC 21           /* a flush acquires what the completion DPC releases */
#define BUG_ACQUIRE_AGAIN_IN_HELPER 22 /* a helper takes what its caller took at PASSIVE_LEVEL: the guest hangs */
#define BUG_LOWER_IN_LOOP 23           /* a loop lowers the IRQL by hand and takes the lock again: the guest hangs */

#endif
