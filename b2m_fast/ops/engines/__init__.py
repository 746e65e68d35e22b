"""The engines that compute the ops, modules with the functions of `select.Engine`."""
