-- The account of the store tests: it makes and drops its own databases and reaches no other.
CREATE USER 'eprod_test'@'%' IDENTIFIED BY 'eprod-dev';
GRANT ALL ON `eprod\_test\_%`.* TO 'eprod_test'@'%';
