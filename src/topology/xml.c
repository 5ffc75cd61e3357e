/* SPDX-License-Identifier: Apache-2.0 */
#include "topology/source.h"

#include "base/error.h"

#include <expat.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct check {
	XML_Parser parser;
	struct kvx_content *content;
	struct kvx_xml_root *root;
	unsigned depth;
	const char *refusal; /* NULL: none */
};

static void refuse(struct check *check, const char *why)
{
	if (!check->refusal)
		check->refusal = why;
	XML_StopParser(check->parser, XML_FALSE);
}

static const char *attribute(const XML_Char **attributes, const char *name)
{
	for (; *attributes; attributes += 2)
		if (strcmp(attributes[0], name) == 0)
			return attributes[1];
	return "";
}

/*
 * "0xf...f,0x0000ffff,,0x1": what hwloc writes for a set, 32 bits between commas. It aborts the
 * process on much else.
 */
static bool is_set(const char *text)
{
	static const char endless[] = "0xf...f,";

	if (strncmp(text, endless, strlen(endless)) == 0)
		text += strlen(endless);
	for (bool is_first = true;; is_first = false) {
		size_t prefix = strncmp(text, "0x", 2) == 0 ? 2 : 0;
		size_t digits = strspn(text + prefix, "0123456789abcdef");
		/* Words that are 0 are left out, but not the first and the last. */
		bool is_last = text[prefix + digits] == 0;
		if (digits > 8 || !prefix != !digits || (!digits && (is_first || is_last)))
			return false;
		if (is_last)
			return true;
		if (text[prefix + digits] != ',')
			return false;
		text += prefix + digits + 1;
	}
}

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text);

	return length >= strlen(end) && strcmp(text + length - strlen(end), end) == 0;
}

/* hwloc makes sets that reach to the number, and takes a missing one for 2^32 - 1. */
static bool is_small_number(const char *text)
{
	size_t digits = strspn(text, "0123456789");

	return digits && digits <= 5 && !text[digits];
}

/* hwloc trusts that XML is its own: without the sets of an object with CPUs or memory it crashes.
 */
static void check_sets(struct check *check, const char *name, const XML_Char **attributes)
{
	static const char *const devices[] = {"Bridge", "PCIDev", "OSDev", "Misc"};
	static const char *const sets[] = {"cpuset", "complete_cpuset", "nodeset",
					   "complete_nodeset"};
	const char *type = attribute(attributes, "type");
	bool needs_sets = strcmp(name, "object") == 0;

	check->root->has_memory |= strcmp(type, "NUMANode") == 0;
	for (const XML_Char **at = attributes; *at; at += 2)
		if ((ends_with(at[0], "cpuset") || ends_with(at[0], "nodeset")) && !is_set(at[1]))
			refuse(check, "a set of CPUs or nodes is not one");
	for (size_t i = 0; i < sizeof(devices) / sizeof(devices[0]); i++)
		needs_sets &= strcmp(type, devices[i]) != 0;
	for (size_t i = 0; needs_sets && i < sizeof(sets) / sizeof(sets[0]); i++)
		if (!*attribute(attributes, sets[i]))
			refuse(check, "an object lacks a set of CPUs or nodes");
	if ((strcmp(type, "NUMANode") == 0 || strcmp(type, "PU") == 0) &&
	    !is_small_number(attribute(attributes, "os_index")))
		refuse(check, "a CPU or NUMA node has no number, or a large one");
}

static void XMLCALL begin_element(void *context, const XML_Char *name, const XML_Char **attributes)
{
	struct check *check = context;

	if (check->depth++ == 0) {
		kvx_name_set(check->root->name, name);
		kvx_name_set(check->root->version, attribute(attributes, "version"));
	}
	if (strcmp(check->root->name, "topology") == 0)
		check_sets(check, name, attributes);
	if (check->depth > KVX_XML_DEPTH_MAX)
		refuse(check, "elements are nested too deep");
}

static void XMLCALL end_element(void *context, const XML_Char *name)
{
	(void)name;
	((struct check *)context)->depth--;
}

/* Entities, which are declared there, can make a small file huge; no topology has any. */
static void XMLCALL begin_doctype(void *context, const XML_Char *name, const XML_Char *system,
				  const XML_Char *public, int has_internal_subset)
{
	(void)name, (void)system, (void)public;
	if (has_internal_subset)
		refuse(context, "it has declarations of its own");
}

/* Blanks are nothing to every reader, and keep line numbers. */
static void XMLCALL comment(void *context, const XML_Char *text)
{
	struct check *check = context;
	XML_Index begin = XML_GetCurrentByteIndex(check->parser);
	int count = XML_GetCurrentByteCount(check->parser);
	char *bytes = check->content->bytes;

	(void)text;
	for (XML_Index i = begin; begin >= 0 && i < begin + count; i++)
		if (bytes[i] != '\n')
			bytes[i] = ' ';
}

static int report(const struct check *check)
{
	const char *path = check->content->path;
	unsigned long line = XML_GetCurrentLineNumber(check->parser);

	if (check->refusal)
		return kvx_fail(
			KVX_E_INVALID,
			"topology: %s, line %lu: %s; give the file as lstopo or NCCL wrote it",
			path, line, check->refusal);
	return kvx_fail(
		KVX_E_INVALID,
		"topology: %s, line %lu: not well-formed XML: %s; the file may be cut short: "
		"write it again, or copy it whole",
		path, line, XML_ErrorString(XML_GetErrorCode(check->parser)));
}

int kvx_xml_check(struct kvx_content *content, struct kvx_xml_root *root)
{
	struct check check = {.content = content, .root = root};

	*root = (struct kvx_xml_root){0};
	check.parser = XML_ParserCreate(NULL);
	if (!check.parser)
		return kvx_fail(KVX_E_MEMORY, "topology: no memory to read %s", content->path);
	XML_SetUserData(check.parser, &check);
	XML_SetElementHandler(check.parser, begin_element, end_element);
	XML_SetCommentHandler(check.parser, comment);
	XML_SetStartDoctypeDeclHandler(check.parser, begin_doctype);
	/* The parser keeps to the bytes given, which comment() changes behind it only. */
	int error = XML_Parse(check.parser, content->bytes, (int)content->size, 1) == XML_STATUS_OK
			    ? 0
			    : report(&check);
	XML_ParserFree(check.parser);
	return error;
}
