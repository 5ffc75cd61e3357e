/* SPDX-License-Identifier: Apache-2.0 */
#include "ports.h"

#include "failure.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES_FOLDER "/sys/class/infiniband"
#define OPTION "verbs_devices"
#define LIST_MAX 256u /* with its zero: what the option takes */

/* "mlx5_0 port 1: gid 3, RoCE v2, ...; 100000 Mbit/s, mtu 4096, up, memory windows" */
void kvx_ports_hear(struct kvx_ports *ports, const char *line)
{
	struct kvx_port port;
	char number[16], gid_index[16];
	const char *state = strchr(line, ';');

	if (ports->count == KVX_BENCH_PORTS_MAX || !state || !strstr(state, ", up") ||
	    sscanf(line, "%63s port %15[0-9]: gid %15[0-9],", port.device, number, gid_index) != 3)
		return;
	port.number = (uint32_t)strtoul(number, NULL, 10);
	port.gid_index = (uint32_t)strtoul(gid_index, NULL, 10);
	snprintf(port.text, sizeof(port.text), "%s", line);
	ports->items[ports->count++] = port;
}

json_t *kvx_ports_texts(const struct kvx_ports *ports)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < ports->count; i++)
		json_array_append_new(array, json_string(ports->items[i].text));
	return array;
}

static int is_entry(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

/* "4: ACTIVE" */
static bool is_active(const char *device, const char *port)
{
	char path[600], text[32] = "";

	snprintf(path, sizeof(path), DEVICES_FOLDER "/%s/ports/%s/state", device, port);
	FILE *file = fopen(path, "re");
	if (!file)
		return false;
	const char *got = fgets(text, sizeof(text), file);
	fclose(file);
	return got && strstr(text, "ACTIVE");
}

static int list_folder(const char *path, struct dirent ***entries)
{
	int count = scandir(path, entries, is_entry, versionsort);

	if (count < 0)
		*entries = NULL;
	return count < 0 ? 0 : count;
}

static void free_entries(struct dirent **entries, int count)
{
	for (int i = 0; i < count; i++)
		free(entries[i]);
	free(entries);
}

/* Adds a device's active ports to the list while there is room for them. Returns how many. */
static uint32_t list_ports(const char *device, uint32_t wanted, char *list)
{
	char path[400];
	struct dirent **ports;
	uint32_t found = 0;

	snprintf(path, sizeof(path), DEVICES_FOLDER "/%s/ports", device);
	int count = list_folder(path, &ports);
	for (int i = 0; i < count && found < wanted; i++) {
		char item[600];
		snprintf(item, sizeof(item), "%s%s:%s", *list ? "," : "", device, ports[i]->d_name);
		if (!is_active(device, ports[i]->d_name) || strlen(list) + strlen(item) >= LIST_MAX)
			continue;
		strcat(list, item);
		found++;
	}
	free_entries(ports, count);
	return found;
}

static uint32_t list_machine(uint32_t wanted, char *list)
{
	struct dirent **devices;
	int count = list_folder(DEVICES_FOLDER, &devices);
	uint32_t found = 0;

	for (int i = 0; i < count && found < wanted; i++)
		found += list_ports(devices[i]->d_name, wanted - found, list);
	free_entries(devices, count);
	return found;
}

/* Cuts the list after so many entries. Returns how many are left. */
static uint32_t cut_list(uint32_t wanted, char *list)
{
	uint32_t found = *list ? 1 : 0;

	for (char *comma = strchr(list, ','); comma; comma = strchr(comma + 1, ',')) {
		if (found == wanted) {
			*comma = 0;
			break;
		}
		found++;
	}
	return found;
}

int kvx_ports_limit(json_t *options, uint32_t rails)
{
	const char *given = json_string_value(json_object_get(options, OPTION));
	char list[LIST_MAX] = "";
	uint32_t found;

	if (given && *given) {
		snprintf(list, sizeof(list), "%s", given);
		found = cut_list(rails, list);
	} else {
		found = list_machine(rails, list);
	}
	if (found < rails)
		return kvx_failure_set("rails: there %s %u of %u ports %s; use fewer --rails, or "
				       "name devices with --device",
				       found == 1 ? "is" : "are", found, rails,
				       given && *given ? "in " OPTION : "up in " DEVICES_FOLDER);
	return json_object_set_new(options, OPTION, json_string(list))
		       ? kvx_failure_set("rails: out of memory")
		       : 0;
}
