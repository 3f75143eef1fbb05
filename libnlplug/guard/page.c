/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The holder's side of the page that it shares with its guard (protocol.h): to begin and end a hold without a
 * word to the guard, which would cost four switches between the two processes and more system calls than the hold.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#include <linux/futex.h>

#include "protocol.h"
#include "page.h"

/* A new page with its timer, and in *file the descriptor to send with the timer's; NULL, and errno says why. */
struct guard_page *libnlplug_page_new(int *file)
{
	struct guard_page *page = MAP_FAILED;
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	int error;

	*file = syscall(SYS_memfd_create, "libnlplug-hold", 1U /* MFD_CLOEXEC */);
	if (*file >= 0 && timer >= 0 && !ftruncate(*file, sizeof *page))
		page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, *file, 0);
	if (page != MAP_FAILED) {
		page->timer = timer;
		return page;
	}
	error = errno;
	if (*file >= 0)
		close(*file);
	*file = -1;
	if (timer >= 0)
		close(timer);
	errno = error;
	return NULL;
}

void libnlplug_page_free(struct guard_page *page)
{
	close(page->timer);
	munmap(page, sizeof *page);
}

int libnlplug_guard_is_alive(const struct guard_page *page)
{
	return (__atomic_load_n(&page->alive, __ATOMIC_ACQUIRE) & FUTEX_TID_MASK) != 0;
}

static uint32_t state(uint32_t what, uint32_t number)
{
	return number << 8 | what;
}

static int change(struct guard_page *page, uint32_t from, uint32_t to)
{
	return __atomic_compare_exchange_n(&page->state, &from, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* Arm the guard, if it is alive and has the marks; whether it is armed. Else it must be spoken to. */
int libnlplug_hold_begin(struct guard_page *page, uint32_t number, uint32_t drop, int64_t timeout, int64_t limit)
{
	int64_t first_look = timeout && timeout < GUARD_LOOK ? timeout : GUARD_LOOK;
	struct itimerspec look = { .it_value = { .tv_nsec = first_look } };
	struct timespec now;

	if (!libnlplug_guard_is_alive(page) || !change(page, GUARD_KEPT, state(GUARD_TAKING, number)))
		return 0;
	clock_gettime(CLOCK_MONOTONIC, &now);
	page->begun = now.tv_sec * 1000000000LL + now.tv_nsec;
	page->drop = drop;
	page->timeout = timeout;
	page->limit = limit;
	page->since = 0;
	if (timerfd_settime(page->timer, 0, &look, NULL)) {
		change(page, state(GUARD_TAKING, number), GUARD_KEPT);
		return 0;
	}
	return change(page, state(GUARD_TAKING, number), state(GUARD_HELD, number));
}

/* Whether this hold has not expired, and its guard is there: from now on it will not expire, and is to be released. */
int libnlplug_hold_leave(struct guard_page *page, uint32_t number)
{
	if (!libnlplug_guard_is_alive(page))
		return 0;
	return change(page, state(GUARD_HELD, number), state(GUARD_LEAVING, number)) ||
	       __atomic_load_n(&page->state, __ATOMIC_ACQUIRE) == state(GUARD_LEAVING, number);
}

/* It was released. */
void libnlplug_hold_left(struct guard_page *page, uint32_t number)
{
	change(page, state(GUARD_LEAVING, number), GUARD_KEPT);
}
