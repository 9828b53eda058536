/*
 * What is odd about a miniport; where nothing else is said, it happens at the first SYNCHRONIZE CACHE. The image
 * odd-NAME.sys is built with -DODD=NUMBER.
 */
#ifndef VARIANT_H
#define VARIANT_H

#define ODD_UNKNOWN_FUNCTION 1   /* calls StorPortExtendedFunction with a code that nobody documents; goes on */
#define ODD_NEVER_COMPLETES 2    /* keeps the request, through every reset */
#define ODD_COMPLETES_AT_RESET 3 /* keeps the request until the bus is reset; goes on */
#define ODD_BUG_CHECKS 4         /* ends the system by itself */
#define ODD_LOOPS_AT_DISPATCH 5  /* never comes back, at DISPATCH_LEVEL */
#define ODD_FREES_TIMERS 6       /* frees a timer at DISPATCH_LEVEL, and one in its own callback; goes on */
#define ODD_FORMATTED 7          /* its disk is not empty, knows no 16-byte commands, takes 16 KiB at a time; goes on */
#define ODD_TELLS_CONTROLS 8     /* prints each request and control operation beside SCSI commands; goes on */
#define ODD_TIMES 9              /* asks for its request and for timers in every way, checks the answers; goes on */
#define ODD_CLEANS_UP 10         /* has routines called at a bug check, and ends the system by itself */
#define ODD_RENAMES_ITSELF 11    /* writes another name into its entry of the kernel's module list; goes on */
#define ODD_LEAVES_THE_LIST 12   /* takes its entry out of the kernel's module list; goes on */

#endif
