/* A PKCS #11 module that forwards calls to another one, and behaves as some tokens do. Environment variables:
 *   ODD_MODULE      the other module
 *   ODD_CHATTER     text that C_Initialize prints on stderr
 *   ODD_RAISE, ODD_CLEAR  flags of each token to set and to clear, as numbers
 *   ODD_UNREADABLE  objects whose labels start with this can't be read
 *   ODD_LIE         a lie: "objects" (there are more and more), "slots" (there are too many), "inserted" (a token,
 *                   after its slots were counted), "lengths" (of attributes)
 *   ODD_LOGINS      a file that gets a line for each C_Login
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long ulong_t;
typedef struct {
	ulong_t type;
	void *value;
	ulong_t length;
} attribute_t;
typedef struct {
	unsigned char version[2];
	void *functions[68];
} functions_t;

enum { INITIALIZE = 0, GET_FUNCTION_LIST = 3, GET_SLOT_LIST = 4, GET_TOKEN_INFO = 6, LOGIN = 18 };
enum { GET_ATTRIBUTE_VALUE = 24, FIND_OBJECTS = 27 };
enum { FLAGS_OFFSET = 96, LABEL = 3, GENERAL_ERROR = 5 };

static functions_t real, ours;

static ulong_t number(const char *name)
{
	const char *text = getenv(name);
	return text ? strtoul(text, NULL, 0) : 0;
}

static int lies(const char *lie)
{
	return getenv("ODD_LIE") && strcmp(getenv("ODD_LIE"), lie) == 0;
}

static ulong_t initialize(void *arguments)
{
	if (getenv("ODD_CHATTER"))
		fprintf(stderr, "%s\n", getenv("ODD_CHATTER"));
	return ((ulong_t(*)(void *))real.functions[INITIALIZE])(arguments);
}

static ulong_t get_token_info(ulong_t slot, unsigned char *info)
{
	ulong_t answer = ((ulong_t(*)(ulong_t, void *))real.functions[GET_TOKEN_INFO])(slot, info), flags;
	memcpy(&flags, info + FLAGS_OFFSET, sizeof flags);
	flags = (flags | number("ODD_RAISE")) & ~number("ODD_CLEAR");
	memcpy(info + FLAGS_OFFSET, &flags, sizeof flags);
	return answer;
}

static ulong_t login(ulong_t session, ulong_t user, void *pin, ulong_t length)
{
	const char *path = getenv("ODD_LOGINS");
	FILE *file = path ? fopen(path, "a") : NULL;
	if (file) {
		fputs("login\n", file);
		fclose(file);
	}
	return ((ulong_t(*)(ulong_t, ulong_t, void *, ulong_t))real.functions[LOGIN])(session, user, pin, length);
}

static ulong_t get_attribute_value(ulong_t session, ulong_t object, attribute_t *attributes, ulong_t count)
{
	ulong_t (*get)(ulong_t, ulong_t, attribute_t *, ulong_t) = real.functions[GET_ATTRIBUTE_VALUE];
	const char *unreadable = getenv("ODD_UNREADABLE");
	char label[256] = "";
	attribute_t wanted = {LABEL, label, sizeof label - 1};
	if (unreadable && get(session, object, &wanted, 1) == 0 && strncmp(label, unreadable, strlen(unreadable)) == 0)
		return GENERAL_ERROR;
	wanted.length = get(session, object, attributes, count);
	if (lies("lengths"))
		for (ulong_t i = 0; i < count; i++)
			attributes[i].length = attributes[i].value ? attributes[i].length : 1UL << 62;
	return wanted.length;
}

static ulong_t find_objects(ulong_t session, ulong_t *objects, ulong_t most, ulong_t *count)
{
	if (!lies("objects"))
		return ((ulong_t(*)(ulong_t, ulong_t *, ulong_t, ulong_t *))real.functions[FIND_OBJECTS])(session, objects, most, count);
	memset(objects, 0, most * sizeof *objects);
	*count = most;
	return 0;
}

static ulong_t get_slot_list(unsigned char present, ulong_t *slots, ulong_t *count)
{
	ulong_t answer = ((ulong_t(*)(unsigned char, ulong_t *, ulong_t *))real.functions[GET_SLOT_LIST])(present, slots, count);
	*count = lies("slots") ? 1UL << 60 : *count;
	if (lies("inserted") && !slots)
		*count -= 1;
	return answer;
}

ulong_t C_GetFunctionList(functions_t **list)
{
	void *module = dlopen(getenv("ODD_MODULE"), RTLD_NOW);
	ulong_t (*get)(functions_t **) = module ? dlsym(module, "C_GetFunctionList") : NULL;
	functions_t *found;
	if (!get || get(&found) != 0)
		return GENERAL_ERROR;
	ours = real = *found;
	ours.functions[INITIALIZE] = initialize;
	ours.functions[GET_FUNCTION_LIST] = C_GetFunctionList;
	ours.functions[GET_TOKEN_INFO] = get_token_info;
	ours.functions[LOGIN] = login;
	ours.functions[GET_ATTRIBUTE_VALUE] = get_attribute_value;
	ours.functions[FIND_OBJECTS] = find_objects;
	ours.functions[GET_SLOT_LIST] = get_slot_list;
	*list = &ours;
	return 0;
}
