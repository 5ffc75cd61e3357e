/* SPDX-License-Identifier: Apache-2.0 */
/* Option verbs_devices. */
#include "verbs.h"

#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_MAX 383u

struct item {
	char name[KVX_OPTION_TEXT_MAX + 1];
	uint32_t port; /* 0: all */
};

static int fail_item(const char *text)
{
	return kvx_fail(KVX_E_INVALID,
			"verbs: option verbs_devices: \"%s\" is not NAME or NAME:PORT", text);
}

/* Returns 1, 0 at the end, or an error. */
static int next_item(const char **rest, struct item *item)
{
	size_t length = strcspn(*rest, ",");
	char text[KVX_OPTION_TEXT_MAX + 1];

	if (!**rest)
		return 0;
	snprintf(text, sizeof(text), "%.*s", (int)length, *rest);
	*rest += length + ((*rest)[length] == ',');

	size_t name_length = strcspn(text, ":");
	char *end = NULL;
	unsigned long port = 0;
	if (text[name_length]) {
		port = strtoul(text + name_length + 1, &end, 10);
		if (*end || port < 1 || port > UINT8_MAX)
			return fail_item(text);
	}
	if (!name_length)
		return fail_item(text);
	snprintf(item->name, sizeof(item->name), "%.*s", (int)name_length, text);
	item->port = (uint32_t)port;
	return 1;
}

bool kvx_verbs_is_selected(const struct kvx_options *options, const char *name, uint32_t port)
{
	const char *rest = options->verbs_devices;
	struct item item;

	if (!*rest)
		return true;
	while (next_item(&rest, &item) > 0)
		if (strcmp(item.name, name) == 0 && (!item.port || !port || item.port == port))
			return true;
	return false;
}

static int fail_unknown(const char *name, struct ibv_device **list, int count)
{
	char names[NAMES_MAX + 1];
	size_t length = 0;

	for (int i = 0; i < count && length < sizeof(names); i++)
		length += (size_t)snprintf(names + length, sizeof(names) - length, "%s%s",
					   i ? ", " : "", ibv_get_device_name(list[i]));
	return kvx_fail(KVX_E_INVALID, "verbs: option verbs_devices: there is no device %s; %s%s",
			name, count ? "there are: " : "there are none", count ? names : "");
}

int kvx_verbs_selection_check(const struct kvx_options *options, struct ibv_device **list,
			      int count)
{
	const char *rest = options->verbs_devices;
	struct item item;
	int more, i;

	while ((more = next_item(&rest, &item)) > 0) {
		for (i = 0; i < count; i++)
			if (strcmp(ibv_get_device_name(list[i]), item.name) == 0)
				break;
		if (i == count)
			return fail_unknown(item.name, list, count);
	}
	return more;
}

int kvx_verbs_selection_check_ports(const struct kvx_options *options, const char *name,
				    uint32_t count)
{
	const char *rest = options->verbs_devices;
	struct item item;

	while (next_item(&rest, &item) > 0)
		if (strcmp(item.name, name) == 0 && item.port > count)
			return kvx_fail(KVX_E_INVALID,
					"verbs: option verbs_devices: %s has no port %u; it has %u",
					name, item.port, count);
	return 0;
}
