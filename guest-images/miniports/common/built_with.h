/*
 * Which of its bugs a miniport is built with: -DBUG=BUG_RELEASE_TWICE and so on, of those in its bug.h. Without it,
 * none.
 */
#ifndef BUILT_WITH_H
#define BUILT_WITH_H

#define BUG_NONE 0

#ifndef BUG
#define BUG BUG_NONE
#endif

#define HAS_BUG(Name) (BUG == BUG_##Name)

#endif
