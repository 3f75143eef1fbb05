/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What page.c offers. No preprocessor line stands here: the C compiler and cffi both read it. */

struct guard_page *libnlplug_page_new(int *file);
void libnlplug_page_free(struct guard_page *page);
int libnlplug_guard_is_alive(const struct guard_page *page);
int libnlplug_hold_begin(struct guard_page *page, uint32_t number, uint32_t drop, int64_t timeout, int64_t limit);
int libnlplug_hold_leave(struct guard_page *page, uint32_t number);
void libnlplug_hold_left(struct guard_page *page, uint32_t number);
