execute_process(COMMAND ldd "${PROGRAM}" OUTPUT_VARIABLE libraries COMMAND_ERROR_IS_FATAL ANY)
if(NOT libraries MATCHES "libc\\.so" OR libraries MATCHES "torch|libc10|not found")
  message(FATAL_ERROR "${PROGRAM} is to load nothing of LibTorch: it loads\n${libraries}")
endif()
