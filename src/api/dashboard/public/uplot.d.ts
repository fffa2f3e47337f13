/** What is served as /dashboard/uplot.js, beside these files: the package's own module. */
export { default } from 'uplot'
