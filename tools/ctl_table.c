/* SPDX-License-Identifier: Apache-2.0 */
/* Tables whose columns are as wide as what stands in them. */
#include "ctl.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void ctl_table_begin(struct ctl_table *table, const char *const *titles)
{
	memset(table, 0, sizeof(*table));
	table->titles = titles;
	while (titles[table->columns] && table->columns < CTL_TABLE_COLUMNS_MAX)
		table->columns++;
}

static bool make_room(struct ctl_table *table)
{
	uint32_t capacity = table->capacity ? 2 * table->capacity : 64;

	if (table->count < table->capacity)
		return true;
	char **cells = realloc((void *)table->cells, capacity * sizeof(*cells));
	if (!cells)
		return false;
	table->cells = cells;
	table->capacity = capacity;
	return true;
}

void ctl_table_add(struct ctl_table *table, const char *format, ...)
{
	char *text = NULL;
	va_list arguments;

	va_start(arguments, format);
	if (!make_room(table) || vasprintf(&text, format, arguments) < 0)
		table->failed = true;
	else
		table->cells[table->count++] = ctl_clean(text);
	va_end(arguments);
}

static const char *title_of(const struct ctl_table *table, uint32_t column, bool *is_right)
{
	const char *title = table->titles[column];

	*is_right = title[0] == '>';
	return title + *is_right;
}

static void append(char *line, size_t size, size_t *bytes, const char *text, uint32_t padding)
{
	size_t left = size - *bytes, length = strlen(text);

	if (length + padding + 1 > left)
		return;
	memset(line + *bytes, ' ', padding);
	memcpy(line + *bytes + padding, text, length + 1);
	*bytes += padding + length;
}

/* One line, cut to the width. cells: those of the row. */
static void write_line(const struct ctl_table *table, char **cells, const uint32_t *widths,
		       uint32_t width, FILE *file)
{
	size_t size = 1, bytes = 0;
	char *line;

	for (uint32_t i = 0; i < table->columns; i++)
		size += strlen(cells[i]) + widths[i] + 2;
	line = calloc(1, size);
	if (!line)
		return;
	uint32_t owed = 0; /* blanks that only a further cell makes necessary */
	for (uint32_t i = 0; i < table->columns; i++) {
		bool is_right;
		title_of(table, i, &is_right);
		uint32_t padding = widths[i] - ctl_columns(cells[i]);
		if (cells[i][0]) {
			append(line, size, &bytes, cells[i], owed + (is_right ? padding : 0));
			owed = is_right ? 0 : padding;
		} else {
			owed += padding;
		}
		owed += 2;
	}
	fprintf(file, "%.*s\n", (int)(width ? ctl_cut(line, width) : bytes), line);
	free(line);
}

static void measure(const struct ctl_table *table, char **titles, uint32_t *widths)
{
	for (uint32_t i = 0; i < table->columns; i++) {
		bool is_right;
		titles[i] = (char *)title_of(table, i, &is_right);
		widths[i] = ctl_columns(titles[i]);
	}
	for (uint32_t i = 0, column = 0; i < table->count; i++) {
		uint32_t columns = ctl_columns(table->cells[i]);
		if (columns > widths[column])
			widths[column] = columns;
		column = column + 1 < table->columns ? column + 1 : 0;
	}
}

void ctl_table_end(struct ctl_table *table, FILE *file, const char *indent, uint32_t width)
{
	uint32_t widths[CTL_TABLE_COLUMNS_MAX] = {0}, left = (uint32_t)strlen(indent);
	char *titles[CTL_TABLE_COLUMNS_MAX];

	width = width > left ? width - left : width;
	if (table->failed) {
		ctl_fail_memory();
	} else {
		measure(table, titles, widths);
		fputs(indent, file);
		write_line(table, titles, widths, width, file);
		for (uint32_t i = 0; i + table->columns <= table->count; i += table->columns) {
			fputs(indent, file);
			write_line(table, table->cells + i, widths, width, file);
		}
	}
	for (uint32_t i = 0; i < table->count; i++)
		free(table->cells[i]);
	free((void *)table->cells);
}

void ctl_table_print(struct ctl_table *table)
{
	uint32_t columns, rows;
	bool is_terminal = ctl_terminal(&columns, &rows);

	ctl_table_end(table, stdout, "", is_terminal ? columns : 0);
}
