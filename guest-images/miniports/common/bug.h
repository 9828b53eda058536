/*
 * One switch for the bugs that a miniport may be built with: -DBUG=BUG_RELEASE_TWICE and so on. Without it, none.
 *
 * Each bug is reached a few times in a run of the workload, never on every request, and leaves the guest able to go on.
 */
#ifndef BUG_H
#define BUG_H

#define BUG_NONE 0
#define BUG_RELEASE_WITHOUT_ACQUIRE 1 /* a flush releases a lock that it no longer acquires */
#define BUG_RELEASE_TWICE 2           /* an unmap releases its inner lock twice */
#define BUG_RELEASE_ON_ERROR_PATH 3   /* a failed command jumps to a release of what it never acquired */
#define BUG_RELEASE_OTHER_LOCK 4      /* an unmap releases a lock that it does not hold beside the one that it does */
#define BUG_RELEASE_WRONG_ROUTINE 5   /* a flush releases by the routine of another kind of lock */

#ifndef BUG
#define BUG BUG_NONE
#endif

#define HAS_BUG(Name) (BUG == BUG_##Name)

#endif
