/* Changes to the client's options that hold for one component of a job only. */
#ifndef CMETA_CHANGES_H
#define CMETA_CHANGES_H

/* Set an option of the component whose options were just read. */
void cmeta_change(const char *name, const char *value);

/* The same for an option that is a list: add to what the user wrote. */
void cmeta_change_append(const char *name, const char *more);

/* Take back what was changed for the component before. To be called before the options are read. */
void cmeta_changes_forget(void);

#endif
