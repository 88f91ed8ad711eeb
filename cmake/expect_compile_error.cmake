# cmake -DCOMPILER= -DARGUMENTS=<response file> -DSOURCE= -P expect_compile_error.cmake
# Succeeds when SOURCE does not compile and the compiler's words match its first line, `// expect: <regex>`.

file(STRINGS "${SOURCE}" first LIMIT_COUNT 1)
if(NOT first MATCHES "^// expect: (.+)$")
  message(FATAL_ERROR "${SOURCE}:1: got `${first}`, expected `// expect: <regular expression>`. Write it.")
endif()
set(expected "${CMAKE_MATCH_1}")
execute_process(COMMAND "${COMPILER}" "@${ARGUMENTS}" "${SOURCE}"
  RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(status EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles; expected an error that matches `${expected}`.")
endif()
if(NOT output MATCHES "${expected}")
  message(FATAL_ERROR "${SOURCE}: the compiler's error does not match `${expected}`. It said:\n${output}")
endif()
