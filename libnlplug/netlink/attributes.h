/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Read netlink attributes from untrusted bytes. No function reads beyond ``end``.
 *
 *	for (one = attribute_at(at, end); one; one = attribute_after(one, end)) ...
 */
#ifndef LIBNLPLUG_ATTRIBUTES_H
#define LIBNLPLUG_ATTRIBUTES_H

#include <stddef.h>
#include <string.h>
#include <linux/netlink.h>

static inline const char *attribute_start(const struct nlattr *attribute)
{
	return (const char *)attribute + NLA_HDRLEN;
}

static inline const char *attribute_end(const struct nlattr *attribute)
{
	return (const char *)attribute + attribute->nla_len;
}

static inline size_t attribute_size(const struct nlattr *attribute)
{
	return attribute->nla_len - NLA_HDRLEN;
}

/* The attribute that begins at ``at``, or NULL if it does not end before ``end``. */
static inline const struct nlattr *attribute_at(const char *at, const char *end)
{
	const struct nlattr *attribute = (const struct nlattr *)at;

	if (end - at < NLA_HDRLEN || attribute->nla_len < NLA_HDRLEN || attribute->nla_len > end - at)
		return NULL;
	return attribute;
}

/* The next attribute, or NULL. */
static inline const struct nlattr *attribute_after(const struct nlattr *attribute, const char *end)
{
	if (NLA_ALIGN(attribute->nla_len) >= end - (const char *)attribute)
		return NULL;
	return attribute_at((const char *)attribute + NLA_ALIGN(attribute->nla_len), end);
}

/* The first attribute of this type, or NULL. */
static inline const struct nlattr *attribute_find(const char *at, const char *end, int type)
{
	const struct nlattr *attribute = attribute_at(at, end);

	while (attribute && (attribute->nla_type & NLA_TYPE_MASK) != type)
		attribute = attribute_after(attribute, end);
	return attribute;
}

/* The first attribute of this type inside ``nest``, or NULL. ``nest`` may be NULL. */
static inline const struct nlattr *attribute_inside(const struct nlattr *nest, int type)
{
	return nest ? attribute_find(attribute_start(nest), attribute_end(nest), type) : NULL;
}

/* Copy at most ``size`` bytes of an attribute's payload. ``attribute`` may be NULL. */
static inline void attribute_copy(const struct nlattr *attribute, void *to, size_t size)
{
	if (attribute)
		memcpy(to, attribute_start(attribute), attribute_size(attribute) < size ? attribute_size(attribute) : size);
}

#endif
