/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The function of namespace.c. */
int namespace_is_abandoned(void);
