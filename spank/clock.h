/* Time for deadlines. */
#ifndef CMETA_CLOCK_H
#define CMETA_CLOCK_H

#include <time.h>

/* Milliseconds that no change of the system's time touches; safe between fork() and exec(). */
static inline long cmeta_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000L + now.tv_nsec / 1000000L;
}

#endif
