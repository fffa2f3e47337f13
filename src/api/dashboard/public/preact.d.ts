/** Types of /dashboard/preact.js: the API serves the module of the preact package beside these files. */
export * from 'preact'
