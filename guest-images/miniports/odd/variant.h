/* What an odd miniport does wrong, at the first SYNCHRONIZE CACHE: the image odd-NAME.sys is built with -DODD=NUMBER.
 */
#ifndef VARIANT_H
#define VARIANT_H

#define ODD_UNKNOWN_FUNCTION 1   /* calls StorPortExtendedFunction with a code that nobody documents; goes on */
#define ODD_NEVER_COMPLETES 2    /* keeps the request, through every reset */
#define ODD_COMPLETES_AT_RESET 3 /* keeps the request until the bus is reset; goes on */
#define ODD_BUG_CHECKS 4         /* ends the system by itself */
#define ODD_LOOPS_AT_DISPATCH 5  /* never comes back, at DISPATCH_LEVEL */

#endif
