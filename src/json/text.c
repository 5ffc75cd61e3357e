/* SPDX-License-Identifier: Apache-2.0 */
#include "json/text.h"

#include <stdlib.h>
#include <string.h>

json_t *kvx_json_text(const char *text)
{
	json_t *string = json_string(text);
	char *ascii = string ? NULL : strdup(text);

	if (!ascii)
		return string;
	for (char *byte = ascii; *byte; byte++)
		if ((unsigned char)*byte >= 0x80)
			*byte = '?';
	string = json_string(ascii);
	free(ascii);
	return string;
}
