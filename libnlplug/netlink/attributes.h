/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Netlink attributes in bytes that somebody else wrote: each is looked at only as far as there are bytes.
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

/* The attribute that begins at ``at``, NULL where the bytes up to ``end`` hold none. */
static inline const struct nlattr *attribute_at(const char *at, const char *end)
{
	const struct nlattr *attribute = (const struct nlattr *)at;

	if (end - at < NLA_HDRLEN || attribute->nla_len < NLA_HDRLEN || attribute->nla_len > end - at)
		return NULL;
	return attribute;
}

/* The attribute after this one, NULL where there is none. */
static inline const struct nlattr *attribute_after(const struct nlattr *attribute, const char *end)
{
	if (NLA_ALIGN(attribute->nla_len) >= end - (const char *)attribute)
		return NULL;
	return attribute_at((const char *)attribute + NLA_ALIGN(attribute->nla_len), end);
}

/* The first attribute of this type, NULL where there is none. */
static inline const struct nlattr *attribute_find(const char *at, const char *end, int type)
{
	const struct nlattr *attribute = attribute_at(at, end);

	while (attribute && (attribute->nla_type & NLA_TYPE_MASK) != type)
		attribute = attribute_after(attribute, end);
	return attribute;
}

/* The first one of this type inside of another one, which may be NULL. */
static inline const struct nlattr *attribute_inside(const struct nlattr *nest, int type)
{
	return nest ? attribute_find(attribute_start(nest), attribute_end(nest), type) : NULL;
}

/* Copy the payload of an attribute, which may be NULL, as far as it goes and fits. */
static inline void attribute_copy(const struct nlattr *attribute, void *to, size_t size)
{
	if (attribute)
		memcpy(to, attribute_start(attribute), attribute_size(attribute) < size ? attribute_size(attribute) : size);
}

#endif
